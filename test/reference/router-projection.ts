// The router's matrices: from x, as jitter leaves it, to the raw logits and noise logits, through a low-rank pair where there
// is one, and back.

import { referenceDgrad, referenceWgrad } from './grouped-matmul.ts';
import { jitterFactors, type LogitGradients } from './logits.ts';
import { FLOAT64, type Precision, roundRouting, sum, unrounded } from './precision.ts';
import { referenceLogits } from './route.ts';
import type { ReferenceRouter } from './router.ts';

export interface RouterMatrices {
  /** [E', H] */
  weight: Float64Array;
  /** [E'] */
  bias?: Float64Array;
  /** [E', H], of noisy top-k */
  noiseWeight?: Float64Array;
  /** [r, H] and [E', r], with weight and bias frozen: logits += loraScale · (x · loraAᵀ) · loraBᵀ */
  loraA?: Float64Array;
  loraB?: Float64Array;
  /** Default 1. */
  loraScale?: number;
}

export interface RouterProjection {
  /** [T, E'] */
  logits: Float64Array;
  /** [T, E'], with a noise weight */
  noiseLogits?: Float64Array;
  /** dx [T, H] is not rounded: it is part of a sum. Gradients go by the parameters' names. */
  backward(of: LogitGradients): { dx: Float64Array; gradients: { [name: string]: Float64Array } };
}

/** `router` says which jitter x gets. */
export function projectRouter(
  router: ReferenceRouter,
  { weight, bias, noiseWeight, loraA, loraB, loraScale = 1 }: RouterMatrices,
  x: Float64Array,
  hidden: number,
  precision: Precision = FLOAT64,
): RouterProjection {
  const factors = jitterFactors(router, x.length / hidden, hidden);
  const jitter = (values: Float64Array) => (factors ? values.map((value, i) => value * factors[i]!) : values);
  const scaled = (values: Float64Array) => values.map(value => loraScale * value);
  const add = (first: Float64Array, second?: Float64Array) =>
    second ? sum(unrounded(precision), first, second) : first;
  const seen = roundRouting(precision, jitter(x));
  const base = product(seen, weight, hidden, precision, bias);
  const low = loraA && product(seen, loraA, hidden, precision);
  const pair = low && loraB && product(low.out, loraB, loraA.length / hidden, precision);
  const noise = noiseWeight && product(x, noiseWeight, hidden, precision);
  return {
    logits: roundRouting(precision, add(base.out, pair && scaled(pair.out))),
    noiseLogits: noise?.out,
    backward: ({ dLogits, dNoiseLogits }) => {
      const ofBase = base.backward(dLogits);
      const ofPair = pair?.backward(scaled(dLogits));
      const ofLow = ofPair && low!.backward(roundRouting(precision, ofPair.dInput));
      const ofNoise = noise?.backward(dNoiseLogits ?? new Float64Array(dLogits.length));
      const gradients = {
        ...(!pair && { weight: ofBase.dWeight, ...(bias && { bias: ofBase.dBias }) }),
        ...(ofLow && { loraA: ofLow.dWeight, loraB: ofPair.dWeight }),
        ...(ofNoise && { noiseWeight: ofNoise.dWeight }),
      };
      return { dx: add(jitter(add(ofBase.dInput, ofLow?.dInput)), ofNoise?.dInput), gradients };
    },
  };
}

/** out = input · matrixᵀ + bias over `inner` columns, and the way back; `dInput` is not rounded. */
function product(
  input: Float64Array,
  matrix: Float64Array,
  inner: number,
  precision: Precision,
  bias?: Float64Array,
) {
  // One group: every token.
  const group = { offsets: [0, input.length / inner], width: matrix.length / inner, inner };
  return {
    out: referenceLogits(input, matrix, bias, inner, precision),
    backward: (dOut: Float64Array) => ({
      dInput: referenceDgrad(dOut, matrix, group, unrounded(precision)),
      ...referenceWgrad(dOut, input, group, precision),
    }),
  };
}
