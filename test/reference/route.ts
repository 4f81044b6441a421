// The router: logits, the choice of experts, their weights, and the way back.

import type { RouterOptions } from '../../src/router.ts';
import { dot, FLOAT64, type Precision, roundRouting } from './precision.ts';

export interface ReferenceRouting {
  /** [T, K], by descending score, ties to the lower id */
  indices: Int32Array;
  /** [T, K] */
  weights: Float64Array;
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

/** The K experts of largest logit: both scores grow with the logit. NaN comes after every number, ties go to the lower id. */
export function chooseExperts(logits: Float64Array, topK: number): number[] {
  const byRank = (a: number, b: number) => {
    const [za, zb] = [logits[a]!, logits[b]!];
    const nan = Number(Number.isNaN(za)) - Number(Number.isNaN(zb));
    return nan || Number(zb > za) - Number(zb < za) || a - b;
  };
  return Array.from(logits.keys()).sort(byRank).slice(0, topK);
}

function softmax(z: Float64Array): Float64Array {
  const max = z.reduce((a, b) => Math.max(a, b), -Infinity);
  const exponentials = z.map(value => Math.exp(value - max));
  const sum = exponentials.reduce((a, b) => a + b, 0);
  return exponentials.map(value => value / sum);
}

/** What one token's K scores are made of, for both directions. */
function chosenScores(router: RouterOptions, logits: Float64Array, chosen: number[]) {
  const selected = Float64Array.from(chosen, expert => logits[expert]!);
  if (router.score === 'sigmoid') return { scores: selected.map(z => 1 / (1 + Math.exp(-z))) };
  if (router.softmaxOver === 'selected') return { scores: softmax(selected) };
  const probabilities = softmax(logits);
  return { scores: Float64Array.from(chosen, expert => probabilities[expert]!), probabilities };
}

/** The number that divides the K scores; `moves` where it depends on them. */
function divisor(router: RouterOptions, scores: Float64Array): { value: number; moves: boolean } {
  if (!router.normalize) return { value: 1, moves: false };
  const sum = scores.reduce((a, b) => a + b, 0) + (router.normalizeEps ?? 0);
  const least = router.normalizeMin ?? 0;
  return { value: Math.max(sum, least), moves: sum > least };
}

/** Experts and weights of logits [T, E]; with `given` indices [T, K], the weights those experts get. */
export function referenceRoute(
  router: RouterOptions,
  logits: Float64Array,
  experts: number,
  given?: ArrayLike<number>,
  precision: Precision = FLOAT64,
): ReferenceRouting {
  const { topK, scale = 1 } = router;
  const tokens = logits.length / experts;
  const indices = new Int32Array(tokens * topK);
  const weights = new Float64Array(tokens * topK);
  for (let t = 0; t < tokens; t++) {
    const z = logits.subarray(t * experts, (t + 1) * experts);
    const chosen = given
      ? Array.from({ length: topK }, (_, k) => given[t * topK + k]!)
      : chooseExperts(z, topK);
    const { scores } = chosenScores(router, z, chosen);
    const by = divisor(router, scores).value;
    indices.set(chosen, t * topK);
    weights.set(
      scores.map(score => (scale * score) / by),
      t * topK,
    );
  }
  return { indices, weights: roundRouting(precision, weights) };
}

/** The gradient of the logits [T, E], of the gradient of the weights [T, K]; the choice of experts is fixed. */
export function referenceRouteBackward(
  router: RouterOptions,
  logits: Float64Array,
  experts: number,
  indices: ArrayLike<number>,
  dWeights: Float64Array,
  precision: Precision = FLOAT64,
): Float64Array {
  const { topK } = router;
  const dLogits = new Float64Array(logits.length);
  for (let t = 0; t < logits.length / experts; t++) {
    const z = logits.subarray(t * experts, (t + 1) * experts);
    const chosen = Array.from({ length: topK }, (_, k) => indices[t * topK + k]!);
    const dToken = tokenBackward(router, z, chosen, dWeights.subarray(t * topK, (t + 1) * topK));
    dLogits.set(dToken, t * experts);
  }
  return roundRouting(precision, dLogits);
}

function tokenBackward(router: RouterOptions, z: Float64Array, chosen: number[], dWeights: Float64Array) {
  const { scores, probabilities } = chosenScores(router, z, chosen);
  const { value: by, moves } = divisor(router, scores);
  const inner = (a: Float64Array, b: Float64Array) => a.reduce((sum, value, i) => sum + value * b[i]!, 0);
  const pull = moves ? inner(dWeights, scores) / by : 0;
  const dScores = dWeights.map(dWeight => ((router.scale ?? 1) / by) * (dWeight - pull));
  const dLogits = new Float64Array(z.length);
  const mean = router.score === 'sigmoid' ? 0 : inner(dScores, scores);
  if (probabilities) for (const [e, p] of probabilities.entries()) dLogits[e] = -p * mean;
  for (const [k, expert] of chosen.entries()) {
    const score = scores[k]!;
    if (router.score === 'sigmoid') dLogits[expert] = dScores[k]! * score * (1 - score);
    else dLogits[expert] = score * (dScores[k]! - mean);
  }
  return dLogits;
}
