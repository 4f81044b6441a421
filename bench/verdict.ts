// Whether a layer has become slower: a difference counts where measuring again could not have made it, and it is large enough to matter.

import type { BenchResult } from './result.ts';
import type { Estimate } from './statistics.ts';

export type Verdict = 'faster' | 'slower' | 'same';

/** A result beside an earlier one of the same case. */
export interface ComparedResult extends BenchResult {
  readonly baseline?: {
    readonly medianMs: number;
    /** How many times as long as then it takes now: on the CPU as multiples of the ruler. */
    readonly ratio: number;
    readonly verdict: Verdict;
  };
}

/** @param tolerance the share of the shorter time by which the longer one may exceed it, and still be the same */
export function judge(now: Estimate, before: Estimate, tolerance: number): Verdict {
  if (takesLonger(now, before, tolerance)) return 'slower';
  return takesLonger(before, now, tolerance) ? 'faster' : 'same';
}

function takesLonger(one: Estimate, other: Estimate, tolerance: number): boolean {
  return one.low > other.high && one.median > other.median * (1 + tolerance);
}

/** @param before of the same case, if there was one */
export function besideBaseline(
  now: BenchResult,
  before: BenchResult | undefined,
  tolerance: number,
): ComparedResult {
  if (before === undefined) return now;
  const inRulers = now.rulers !== undefined && before.rulers !== undefined;
  const [ours, theirs] = inRulers ? [rulersOf(now), rulersOf(before)] : [timeOf(now), timeOf(before)];
  const verdict = judge(ours, theirs, tolerance);
  return { ...now, baseline: { medianMs: before.medianMs, ratio: ours.median / theirs.median, verdict } };
}

/** Times of two days compare only with the ruler of each day, for the machine is not always as fast. */
function rulersOf({ rulers, rulersLow, rulersHigh }: BenchResult): Estimate {
  return { median: rulers!, low: rulersLow!, high: rulersHigh! };
}

function timeOf({ medianMs, lowMs, highMs }: BenchResult): Estimate {
  return { median: medianMs, low: lowMs, high: highMs };
}

/** How many results got each verdict. */
export function countVerdicts(results: readonly ComparedResult[]): Record<Verdict, number> {
  const counts = { slower: 0, faster: 0, same: 0 };
  for (const { baseline } of results) if (baseline) counts[baseline.verdict]++;
  return counts;
}
