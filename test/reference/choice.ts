// The choice of experts: by score and selection bias, within the best groups, and what capacity drops of it.

import type { RouterGroups } from '../../src/router.ts';
import { type ReferenceRouter, scoreOf } from './score.ts';

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
 * Which slots of [T, K] exceed their expert's capacity: 1 where tokens before it have filled the expert. Identity experts,
 * the last of the E', take any number.
 */
export function droppedSlots(
  { capacity, identityExperts = 0 }: ReferenceRouter,
  indices: ArrayLike<number>,
  experts: number,
): Int32Array {
  const dropped = new Int32Array(indices.length);
  if (!capacity) return dropped;
  const taken = new Int32Array(experts - identityExperts);
  for (let slot = 0; slot < dropped.length; slot++) {
    const expert = indices[slot]!;
    if (expert < taken.length && ++taken[expert]! > capacity.tokensPerExpert) dropped[slot] = 1;
  }
  return dropped;
}
