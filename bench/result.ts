// What is known of one benchmark once it was measured: a line of a campaign's file, a row of a table, a point of a chart.

import type { BenchCase } from './campaign.ts';
import type { Ceilings } from './ceilings.ts';
import type { Clock } from './clock.ts';
import type { Machine } from './machine.ts';
import type { PeerResult } from './peers/race.ts';
import type { RoundOptions, RoundTiming } from './rounds.ts';

export interface BenchResult extends BenchCase, RoundTiming, RoundOptions, Partial<Ceilings>, Machine {
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
  /** Copies of the layer that runs took by turns; one where `cache` is `warm`. */
  readonly copies: number;
  /** The most bytes of native memory at once in a run: tensors, the layer among them, and workspaces. */
  readonly peakBytes?: number;
  /** Rows that each expert gets. */
  readonly expertLoad: readonly number[];
  /** Peers that took turns with it, where any did: its own times are from those turns. */
  readonly vs?: readonly PeerResult[];
  /** When it was measured, as ISO 8601. */
  readonly date: string;
}
