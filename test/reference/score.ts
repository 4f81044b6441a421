// The score functions for one token, forward and back to its logits.

import type { RouterOptions } from '../../src/router.ts';

/** One token's K scores, and their gradient carried to its logits. */
export interface Scores {
  values: Float64Array;
  toLogits(dScores: Float64Array): Float64Array;
}

/** A score that depends on its own logit alone. */
interface Curve {
  value(z: number): number;
  slope(z: number): number;
}

export const logistic = (z: number) => 1 / (1 + Math.exp(-z));
/** ln(1 + eᶻ), without overflow. */
export const softplus = (z: number) => Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z)));

const CURVES: Readonly<Partial<Record<NonNullable<RouterOptions['score']>, Curve>>> = {
  identity: { value: z => z, slope: () => 1 },
  sigmoid: { value: logistic, slope: z => logistic(z) * logistic(-z) },
  sqrtsoftplus: {
    value: z => Math.sqrt(softplus(z)),
    slope: z => logistic(z) / (2 * Math.sqrt(softplus(z))),
  },
};

export function softmax(z: Float64Array): Float64Array {
  const max = z.reduce((a, b) => Math.max(a, b), -Infinity);
  const exponentials = z.map(value => Math.exp(value - max));
  const sum = exponentials.reduce((a, b) => a + b, 0);
  return exponentials.map(value => value / sum);
}

/** All of a token's scores, as far as they are known before the choice: with a softmax over the selected, its logits. */
export function scoreOf({ score = 'softmax', softmaxOver }: RouterOptions, z: Float64Array): Float64Array {
  const curve = CURVES[score];
  if (curve) return z.map(curve.value);
  return score === 'softmax' && softmaxOver !== 'selected' ? softmax(z) : z;
}

/**
 * All experts' shares p in one token's scores, which losses are made of: s / Σ s where scores are never negative, else the
 * softmax. The gradient of Σ g·p is slope[e] · (g[e] − Σ g·p).
 */
export function scoreShares(
  router: RouterOptions,
  z: Float64Array,
): { values: Float64Array; slopes: Float64Array } {
  const curve = router.score === 'identity' ? undefined : CURVES[router.score ?? 'softmax'];
  if (!curve) {
    const values = softmax(z);
    return { values, slopes: values };
  }
  const scores = z.map(curve.value);
  const sum = scores.reduce((a, b) => a + b, 0);
  return { values: scores.map(score => score / sum), slopes: z.map(value => curve.slope(value) / sum) };
}

/** The scores of the chosen experts, which their weights are made of. */
export function chosenScores(router: RouterOptions, z: Float64Array, chosen: number[]): Scores {
  const curve = CURVES[router.score ?? 'softmax'];
  if (!curve) return shares(z, chosen, competitors(router, z, chosen));
  return {
    values: Float64Array.from(chosen, expert => curve.value(z[expert]!)),
    toLogits: dScores => {
      const dLogits = new Float64Array(z.length);
      for (const [k, expert] of chosen.entries()) dLogits[expert] = dScores[k]! * curve.slope(z[expert]!);
      return dLogits;
    },
  };
}

/** For each chosen expert, the experts among which its score is a softmax probability. */
function competitors(router: RouterOptions, z: Float64Array, chosen: number[]): number[][] {
  const all = Array.from(z.keys());
  if (router.score !== 'sparsemixer')
    return chosen.map(() => (router.softmaxOver === 'selected' ? chosen : all));
  const { jitterEps = 0.01 } = router;
  return chosen.map((winner, k) => {
    const max = z[winner]!;
    const isFar = (e: number) => (max - z[e]!) / Math.max(Math.abs(z[e]!), max) > 2 * jitterEps;
    return all.filter(e => !chosen.slice(0, k).includes(e) && !isFar(e));
  });
}

/** Each winner's softmax probability p among its competitors: dz[i] = ds · p[winner] · (δ[i, winner] − p[i]). */
function shares(z: Float64Array, chosen: number[], sets: number[][]): Scores {
  const probabilities = new Map(
    [...new Set(sets)].map(set => [set, softmax(Float64Array.from(set, e => z[e]!))]),
  );
  const share = (k: number) => probabilities.get(sets[k]!)![sets[k]!.indexOf(chosen[k]!)]!;
  const values = Float64Array.from(chosen, (_, k) => share(k));
  return {
    values,
    toLogits: dScores => {
      const dLogits = new Float64Array(z.length);
      for (const [k, winner] of chosen.entries()) {
        const factor = dScores[k]! * values[k]!;
        for (const [i, p] of probabilities.get(sets[k]!)!.entries()) dLogits[sets[k]![i]!]! -= factor * p;
        dLogits[winner]! += factor;
      }
      return dLogits;
    },
  };
}
