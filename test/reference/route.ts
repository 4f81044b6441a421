// The router: logits, the choice of experts, their weights, and the way back.

import { chooseLargest, droppedSlots, selectionValues } from './choice.ts';
import { dot, FLOAT64, type Precision, roundRouting } from './precision.ts';
import { chosenScores, type ReferenceRouter, type Scores } from './score.ts';

export interface ReferenceRouting {
  /** [T, K], by descending score, ties to the lower id */
  indices: Int32Array;
  /** [T, K], 0 where dropped */
  weights: Float64Array;
  /** [T, K], 1 where the expert's capacity was exceeded */
  dropped: Int32Array;
}

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
  chosen: number[];
  scores: Scores;
  /** What the scores are divided by; it moves with them where it is their sum. */
  divisor: { value: number; moves: boolean };
  values: Float64Array;
}

function tokenWeights(router: ReferenceRouter, z: Float64Array, chosen: number[]): TokenWeights {
  const scores = chosenScores(router, z, chosen);
  const divisor = divisorOf(router, scores.values);
  const values = scores.values.map(score => ((router.scale ?? 1) * score) / divisor.value);
  return { chosen, scores, divisor, values };
}

function divisorOf(router: ReferenceRouter, scores: Float64Array): TokenWeights['divisor'] {
  if (!router.normalize) return { value: 1, moves: false };
  const sum = scores.reduce((a, b) => a + b, 0) + (router.normalizeEps ?? 0);
  const least = router.normalizeMin ?? 0;
  return { value: Math.max(sum, least), moves: sum > least };
}

const expertScaleOf = ({ expertScale }: ReferenceRouter, expert: number) => expertScale?.[expert] ?? 1;

/** Experts and weights of logits [T, E]; with `given` indices [T, K], the weights those experts get. */
export function referenceRoute(
  router: ReferenceRouter,
  logits: Float64Array,
  experts: number,
  given?: ArrayLike<number>,
  precision: Precision = FLOAT64,
): ReferenceRouting {
  const { topK } = router;
  const tokens = logits.length / experts;
  const indices = new Int32Array(tokens * topK);
  const weights = new Float64Array(tokens * topK);
  for (let t = 0; t < tokens; t++) {
    const z = logits.subarray(t * experts, (t + 1) * experts);
    const chosen = given ? takeSlots(given, t, topK) : chooseLargest(selectionValues(router, z), topK);
    const { values } = tokenWeights(router, z, chosen);
    indices.set(chosen, t * topK);
    weights.set(
      values.map((value, k) => value * expertScaleOf(router, chosen[k]!)),
      t * topK,
    );
  }
  const dropped = droppedSlots(router, indices, experts);
  for (const [slot, drop] of dropped.entries()) if (drop) weights[slot] = 0;
  return { indices, weights: roundRouting(precision, weights), dropped };
}

const takeSlots = (of: ArrayLike<number>, token: number, topK: number) =>
  Array.from({ length: topK }, (_, k) => of[token * topK + k]!);

/** Every token's weights, with the gradient of what the expert scale left of them; a dropped weight is a constant. */
function* routedTokens(
  router: ReferenceRouter,
  logits: Float64Array,
  experts: number,
  indices: ArrayLike<number>,
  dWeights: Float64Array,
): Generator<TokenWeights & { token: number; dWeights: Float64Array }> {
  const { topK } = router;
  const dropped = droppedSlots(router, indices, experts);
  for (let token = 0; token < logits.length / experts; token++) {
    const z = logits.subarray(token * experts, (token + 1) * experts);
    const weights = tokenWeights(router, z, takeSlots(indices, token, topK));
    const own = dWeights.subarray(token * topK, (token + 1) * topK);
    yield { ...weights, token, dWeights: own.map((d, k) => (dropped[token * topK + k] ? 0 : d)) };
  }
}

/** The gradient of the logits [T, E], of the gradient of the weights [T, K]; the choice of experts is fixed. */
export function referenceRouteBackward(
  router: ReferenceRouter,
  logits: Float64Array,
  experts: number,
  indices: ArrayLike<number>,
  dWeights: Float64Array,
  precision: Precision = FLOAT64,
): Float64Array {
  const dLogits = new Float64Array(logits.length);
  for (const routed of routedTokens(router, logits, experts, indices, dWeights)) {
    const { token, chosen, scores, divisor } = routed;
    const dValues = routed.dWeights.map((d, k) => d * expertScaleOf(router, chosen[k]!));
    const inner = dValues.reduce((sum, d, k) => sum + d * scores.values[k]!, 0);
    const pull = divisor.moves ? inner / divisor.value : 0;
    const dScores = dValues.map(d => ((router.scale ?? 1) / divisor.value) * (d - pull));
    dLogits.set(scores.toLogits(dScores), token * experts);
  }
  return roundRouting(precision, dLogits);
}

/** The gradient of the expert scale [E], of the gradient of the weights [T, K]. */
export function referenceExpertScaleBackward(
  router: ReferenceRouter,
  logits: Float64Array,
  experts: number,
  indices: ArrayLike<number>,
  dWeights: Float64Array,
  { round, float32Sums }: Precision = FLOAT64,
): Float64Array {
  const dScale = new Float64Array(router.expertScale!.length);
  for (const routed of routedTokens(router, logits, experts, indices, dWeights)) {
    for (const [k, expert] of routed.chosen.entries()) {
      if (expert >= dScale.length) continue;
      const sum = dScale[expert]! + routed.dWeights[k]! * routed.values[k]!;
      dScale[expert] = float32Sums ? Math.fround(sum) : sum;
    }
  }
  return dScale.map(round);
}
