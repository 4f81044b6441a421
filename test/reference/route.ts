// The router: logits, the choice of experts, their weights, and the way back.

import { RESIDUAL, SERVED, settleSlots, UNTAKEN } from './capacity.ts';
import { chooseLargest, selectionValues, slotsTaken } from './choice.ts';
import { dot, FLOAT64, type Precision, roundRouting } from './precision.ts';
import { type ReferenceRouter, slotsPerToken } from './router.ts';
import { chosenScores, type Scores } from './score.ts';

export interface ReferenceRouting {
  /** [T, K], by descending score, ties to the lower id; 0 … E−1 where experts choose */
  indices: Int32Array;
  /** [T, K], 0 of a slot that is not served, but 1 of one that passes the residual */
  weights: Float64Array;
  /** [T, K], as `capacity.ts` names them */
  dropped: Int32Array;
  /** [E'], the slots that chose each expert; where experts choose, those it took */
  counts: Int32Array;
}

/** Experts [T, K] that were chosen elsewhere, and what becomes of each slot where that was decided too. */
export type GivenChoice = ArrayLike<number> | { indices: ArrayLike<number>; dropped?: ArrayLike<number> };

/** logits [T, E] = x · weightᵀ + bias */
export function referenceLogits(
  x: Float64Array,
  weight: Float64Array,
  bias: Float64Array | undefined,
  hidden: number,
  precision: Precision = FLOAT64,
): Float64Array {
  const tokens = hidden === 0 ? 0 : x.length / hidden;
  const experts = hidden === 0 ? 0 : weight.length / hidden;
  const logits = new Float64Array(tokens * experts);
  for (let i = 0; i < logits.length; i++) {
    const expert = i % experts;
    const token = (i - expert) / experts;
    logits[i] = dot(precision, x, token * hidden, weight, expert * hidden, hidden) + (bias?.[expert] ?? 0);
  }
  return roundRouting(precision, logits);
}

/** One token's weights before the expert scale: scale · score / divisor. */
interface TokenWeights {
  /** The experts that it takes, the first of those it chose. */
  chosen: number[];
  scores: Scores;
  /** What the scores are divided by; it moves with them where it is their sum. */
  divisor: { value: number; moves: boolean };
  values: Float64Array;
}

function tokenWeights(router: ReferenceRouter, z: Float64Array, chosen: number[]): TokenWeights {
  const scores = chosenScores(router, z, chosen);
  const divisor = divisorOf(router, scores.values);
  // A share of 1 is exactly 1, so that capacity finds such weights equal.
  const values = scores.values.map(score => (router.scale ?? 1) * (score / divisor.value));
  return { chosen, scores, divisor, values };
}

function divisorOf(router: ReferenceRouter, scores: Float64Array): TokenWeights['divisor'] {
  if (!router.normalize) return { value: 1, moves: false };
  const sum = scores.reduce((a, b) => a + b, 0) + (router.normalizeEps ?? 0);
  const least = router.normalizeMin ?? 0;
  return { value: Math.max(sum, least), moves: sum > least };
}

const expertScaleOf = ({ expertScale }: ReferenceRouter, expert: number) => expertScale?.[expert] ?? 1;

/** Every token's weights, and the routing they make. */
function routeTokens(
  router: ReferenceRouter,
  logits: Float64Array,
  experts: number,
  given: GivenChoice | undefined,
): ReferenceRouting & { tokens: TokenWeights[] } {
  const K = slotsPerToken(router, experts);
  const settled: { indices?: ArrayLike<number>; dropped?: ArrayLike<number> } =
    given && 'indices' in given ? given : { indices: given };
  const choose = (token: number, z: Float64Array) => {
    if (settled.indices) return Array.from({ length: K }, (_, k) => settled.indices![token * K + k]!);
    return router.expertChoice ? [...z.keys()] : chooseLargest(selectionValues(router, z), K);
  };
  const take = (token: number, z: Float64Array, chosen: number[]) => {
    if (!settled.dropped) return slotsTaken(router, token, z, chosen);
    return chosen.filter((_, k) => settled.dropped![token * K + k] !== UNTAKEN).length;
  };
  const indices = new Int32Array((logits.length / experts) * K);
  const weights = new Float64Array(indices.length);
  const tokens = Array.from({ length: logits.length / experts }, (_, token) => {
    const z = logits.subarray(token * experts, (token + 1) * experts);
    const chosen = choose(token, z);
    indices.set(chosen, token * K);
    const own = tokenWeights(router, z, chosen.slice(0, take(token, z, chosen)));
    const scaled = own.values.map((value, k) => value * expertScaleOf(router, chosen[k]!));
    weights.set(scaled, token * K);
    return own;
  });
  const taken = tokens.map(({ chosen }) => chosen.length);
  const dropped = Int32Array.from(
    settled.dropped ?? settleSlots(router, { indices, weights, taken }, experts),
  );
  for (const [slot, state] of dropped.entries())
    if (state !== SERVED) weights[slot] = Number(state === RESIDUAL);
  return { tokens, indices, weights, dropped, counts: countSlots(router, indices, dropped, experts) };
}

function countSlots(
  { expertChoice }: ReferenceRouter,
  indices: Int32Array,
  dropped: Int32Array,
  experts: number,
): Int32Array {
  const counts = new Int32Array(experts);
  for (const [slot, expert] of indices.entries()) {
    if (expertChoice ? dropped[slot] === SERVED : dropped[slot] !== UNTAKEN) counts[expert]!++;
  }
  return counts;
}

/** Experts and weights of scored logits [T, E']; with a `given` choice, the weights its experts get. */
export function referenceRoute(
  router: ReferenceRouter,
  logits: Float64Array,
  experts: number,
  given?: GivenChoice,
  precision: Precision = FLOAT64,
): ReferenceRouting {
  const { indices, weights, dropped, counts } = routeTokens(router, logits, experts, given);
  return { indices, weights: roundRouting(precision, weights), dropped, counts };
}

/** Every token's weights, with the gradient of what the expert scale left of them; a weight that was set is a constant. */
function* routedTokens(
  router: ReferenceRouter,
  logits: Float64Array,
  experts: number,
  given: GivenChoice,
  dWeights: Float64Array,
): Generator<TokenWeights & { token: number; dWeights: Float64Array }> {
  const K = slotsPerToken(router, experts);
  const { tokens, dropped } = routeTokens(router, logits, experts, given);
  for (const [token, weights] of tokens.entries()) {
    const own = weights.chosen.map((_, k) => token * K + k);
    const flowing = Float64Array.from(own, slot => (dropped[slot] === SERVED ? dWeights[slot]! : 0));
    yield { ...weights, token, dWeights: flowing };
  }
}

/** The gradient of the scored logits [T, E'], of the gradient of the weights [T, K]; the choice of experts is fixed. */
export function referenceRouteBackward(
  router: ReferenceRouter,
  logits: Float64Array,
  experts: number,
  given: GivenChoice,
  dWeights: Float64Array,
  precision: Precision = FLOAT64,
): Float64Array {
  const dLogits = new Float64Array(logits.length);
  for (const routed of routedTokens(router, logits, experts, given, dWeights)) {
    const { token, chosen, scores, divisor } = routed;
    const dValues = routed.dWeights.map((d, k) => d * expertScaleOf(router, chosen[k]!));
    const inner = dValues.reduce((sum, d, k) => sum + d * scores.values[k]!, 0);
    const pull = divisor.moves ? inner / divisor.value : 0;
    const dScores = dValues.map(d => ((router.scale ?? 1) / divisor.value) * (d - pull));
    if (chosen.length > 0) dLogits.set(scores.toLogits(dScores), token * experts);
  }
  return roundRouting(precision, dLogits);
}

/** The gradient of the expert scale [E], of the gradient of the weights [T, K]. */
export function referenceExpertScaleBackward(
  router: ReferenceRouter,
  logits: Float64Array,
  experts: number,
  given: GivenChoice,
  dWeights: Float64Array,
  { round, float32Sums }: Precision = FLOAT64,
): Float64Array {
  const dScale = new Float64Array(router.expertScale!.length);
  for (const routed of routedTokens(router, logits, experts, given, dWeights)) {
    for (const [k, expert] of routed.chosen.entries()) {
      if (expert >= dScale.length) continue;
      const sum = dScale[expert]! + routed.dWeights[k]! * routed.values[k]!;
      dScale[expert] = float32Sums ? Math.fround(sum) : sum;
    }
  }
  return dScale.map(round);
}
