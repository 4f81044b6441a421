// Whether a layer has become slower: a difference counts where measuring again could not have made it, and it is large enough to matter.

import type { Timing } from './measure.ts';
import type { BenchResult } from './result.ts';

export type Verdict = 'faster' | 'slower' | 'same';

/** A result beside an earlier one of the same case. */
export interface ComparedResult extends BenchResult {
  readonly baseline?: {
    readonly medianMs: number;
    /** How many times as long as then it takes now. */
    readonly ratio: number;
    readonly verdict: Verdict;
  };
}

type Median = Pick<Timing, 'medianMs' | 'lowMs' | 'highMs'>;

/** @param tolerance the share of the shorter time by which the longer one may exceed it, and still be the same */
export function judge(now: Median, before: Median, tolerance: number): Verdict {
  if (takesLonger(now, before, tolerance)) return 'slower';
  return takesLonger(before, now, tolerance) ? 'faster' : 'same';
}

function takesLonger(one: Median, other: Median, tolerance: number): boolean {
  return one.lowMs > other.highMs && one.medianMs > other.medianMs * (1 + tolerance);
}

/** @param before of the same case, if there was one */
export function besideBaseline(
  now: BenchResult,
  before: BenchResult | undefined,
  tolerance: number,
): ComparedResult {
  if (before === undefined) return now;
  const { medianMs } = before;
  const verdict = judge(now, before, tolerance);
  return { ...now, baseline: { medianMs, ratio: now.medianMs / medianMs, verdict } };
}

/** How many results got each verdict. */
export function countVerdicts(results: readonly ComparedResult[]): Record<Verdict, number> {
  const counts = { slower: 0, faster: 0, same: 0 };
  for (const { baseline } of results) if (baseline) counts[baseline.verdict]++;
  return counts;
}
