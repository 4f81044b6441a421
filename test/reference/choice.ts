// The choice of experts: by score and selection bias, within the best groups, and as many as top-p needs.

import type { RouterGroups } from '../../src/router.ts';
import { isMasked, type ReferenceRouter } from './router.ts';
import { scoreOf, softmax } from './score.ts';

/** The K largest of the values. NaN comes after every number, ties go to the lower id. */
export function chooseLargest(values: Float64Array, topK: number): number[] {
  const byRank = (a: number, b: number) => {
    const [va, vb] = [values[a]!, values[b]!];
    const nan = Number(Number.isNaN(va)) - Number(Number.isNaN(vb));
    return nan || Number(vb > va) - Number(vb < va) || a - b;
  };
  return Array.from(values.keys()).sort(byRank).slice(0, topK);
}

/** What one token's logits are ranked by when experts are chosen. */
export function selectionValues(router: ReferenceRouter, logits: Float64Array): Float64Array {
  const { groups, selectionBias } = router;
  // Alone, every score ranks as its logit does, and the logit never saturates.
  if (!groups && !selectionBias) return logits;
  const values = scoreOf(router, logits).map((score, e) => score + (selectionBias?.[e] ?? 0));
  return groups ? maskOtherGroups(groups, values) : values;
}

function maskOtherGroups(groups: RouterGroups, values: Float64Array): Float64Array {
  const { count, top, score = 'max', maskValue = -Infinity } = groups;
  const size = values.length / count;
  const members = score === 'max' ? 1 : 2;
  const groupScores = Float64Array.from({ length: count }, (_, group) => {
    const own = values.subarray(group * size, (group + 1) * size);
    return chooseLargest(own, members).reduce((sum, member) => sum + own[member]!, 0);
  });
  const kept = new Set(chooseLargest(groupScores, top));
  return values.map((value, e) => (kept.has(Math.floor(e / size)) ? value : maskValue));
}

/**
 * How many of one token's experts, in order of choice, it takes: all, none where it is masked, or with top-p the first whose
 * softmax probabilities add up to at least p.
 */
export function slotsTaken(
  router: ReferenceRouter,
  token: number,
  logits: Float64Array,
  chosen: readonly number[],
): number {
  if (isMasked(router, token)) return 0;
  const { topP } = router;
  if (topP === undefined) return chosen.length;
  const probabilities = softmax(logits);
  let sum = 0;
  const last = chosen.findIndex(expert => {
    sum += probabilities[expert]!;
    return sum >= topP;
  });
  return last < 0 ? chosen.length : last + 1;
}
