// Times a call: warm-up first, then again and again until enough time has passed for a steady median.

import { setImmediate } from 'node:timers/promises';
import { ascending, estimateMedian, FEWEST_VALUES, quantile } from './statistics.ts';

/** Of repeated runs. */
export interface Timing {
  readonly medianMs: number;
  /** The interval that holds the true median with 95 % confidence. */
  readonly lowMs: number;
  readonly highMs: number;
  readonly p10Ms: number;
  readonly p90Ms: number;
  readonly minMs: number;
  readonly runs: number;
}

export interface MeasureOptions {
  /** Total of the measured times to reach. Default 2 s. */
  readonly minTimeMs?: number;
  /** Default 6, with fewer of which no interval could be stated. */
  readonly minRuns?: number;
}

/** What is measured: `run` returns once the device has finished; the two around it are not timed. */
export interface Measured {
  prepare(): void;
  run(): void;
  /** Frees what the other two made. */
  clear(): void;
}

const WARM_UP_RUNS = 2;

/** How long a run takes. */
export function timeOnce({ prepare, run, clear }: Measured): number {
  prepare();
  const start = performance.now();
  run();
  const elapsed = performance.now() - start;
  clear();
  return elapsed;
}

export async function measure(
  measured: Measured,
  { minTimeMs = 2000, minRuns = FEWEST_VALUES }: MeasureOptions = {},
): Promise<Timing> {
  for (let i = 0; i < WARM_UP_RUNS; i++) timeOnce(measured);
  const times: number[] = [];
  let turned = Number.NEGATIVE_INFINITY;
  for (let total = 0; total < minTimeMs || times.length < minRuns; total += times.at(-1)!) {
    if (performance.now() - turned > TURN_MS) {
      await letSignalsIn();
      turned = performance.now();
    }
    times.push(timeOnce(measured));
  }
  return timingOf(times);
}

/** How long Ctrl-C waits at most, but for a single run. */
const TURN_MS = 100;

/** Two turns of the event loop, for the first may begin after the point where signals are taken. */
export async function letSignalsIn(): Promise<void> {
  await setImmediate();
  await setImmediate();
}

/** @param times at least {@link FEWEST_VALUES} */
export function timingOf(times: readonly number[]): Timing {
  const sorted = ascending(times);
  const { median, low, high } = estimateMedian(sorted);
  return {
    ...{ medianMs: median, lowMs: low, highMs: high },
    ...{ p10Ms: quantile(sorted, 0.1), p90Ms: quantile(sorted, 0.9) },
    ...{ minMs: sorted[0]!, runs: times.length },
  };
}
