// Times a call: warm-up first, then again and again until enough time has passed for a steady median.

import { ascending, median } from './statistics.ts';

export interface Measurement {
  readonly medianMs: number;
  readonly minMs: number;
  readonly runs: number;
}

export interface MeasureOptions {
  /** Total of the measured times to reach. Default 2 s. */
  readonly minTimeMs?: number;
  /** Default 3. */
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

export function measure(
  { prepare, run, clear }: Measured,
  { minTimeMs = 2000, minRuns = 3 }: MeasureOptions = {},
): Measurement {
  const once = () => {
    prepare();
    const start = performance.now();
    run();
    const elapsed = performance.now() - start;
    clear();
    return elapsed;
  };
  for (let i = 0; i < WARM_UP_RUNS; i++) once();
  const times: number[] = [];
  for (let total = 0; total < minTimeMs || times.length < minRuns; total += times.at(-1)!) times.push(once());
  return { medianMs: median(times), minMs: ascending(times)[0]!, runs: times.length };
}
