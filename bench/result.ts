// What is known of one benchmark once it was measured: a line of a campaign's file, a row of a table, a point of a chart.

import type { BenchCase } from './campaign.ts';
import type { Ceilings } from './ceilings.ts';
import type { Clock } from './clock.ts';
import type { Machine } from './machine.ts';
import type { Timing } from './measure.ts';

export interface BenchResult extends BenchCase, Timing, Partial<Ceilings>, Machine {
  /** What took the times. */
  readonly clock: Clock;
  /** Floating-point operations of the experts' matmuls; of a stage of its own, which may have none. */
  readonly flops: number;
  /** Bytes that cannot be avoided. */
  readonly bytes: number;
  /** 10¹² FLOPs a second, by the median. */
  readonly tflops: number;
  /** The least time that the device's ceilings allow, measured just before. */
  readonly floorMs?: number;
  /** Rows that each expert gets. */
  readonly expertLoad: readonly number[];
  /** When it was measured, as ISO 8601. */
  readonly date: string;
}
