// What is known of one benchmark once it was measured: a line of a campaign's file, a row of a table, a point of a chart.

import type { BenchCase } from './campaign.ts';
import type { Ceilings } from './ceilings.ts';
import type { Timing } from './measure.ts';
import type { PeerResult } from './peers/race.ts';

export interface BenchResult extends BenchCase, Timing, Partial<Ceilings> {
  /** Floating-point operations of the experts' matmuls. */
  readonly flops: number;
  /** Bytes that cannot be avoided. */
  readonly bytes: number;
  /** 10¹² FLOPs a second, by the median. */
  readonly tflops: number;
  /** The least time that this machine's ceilings allow, measured just before; of the CPU alone, as the ceilings are. */
  readonly floorMs?: number;
  /** Rows that each expert gets. */
  readonly expertLoad: readonly number[];
  /** Peers that took turns with it, where any did: its own times are from those turns. */
  readonly vs?: readonly PeerResult[];
  readonly instructionSet: string;
  /** As its maker calls it. */
  readonly processor: string;
  /** Of this package. */
  readonly version: string;
  /** When it was measured, as ISO 8601. */
  readonly date: string;
}
