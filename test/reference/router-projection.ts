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
  parameters: RouterMatrices,
  x: Float64Array,
  hidden: number,
  precision: Precision = FLOAT64,
): RouterProjection {
  const { weight, bias, noiseWeight, loraA, loraB, loraScale = 1 } = parameters;
  const factors = jitterFactors(router, x.length / hidden, hidden);
  const seen = factors
    ? roundRouting(
        precision,
        x.map((value, i) => value * factors[i]!),
      )
    : x;
  const base = referenceLogits(seen, weight, bias, hidden, precision);
  const low = loraA && referenceLogits(seen, loraA, undefined, hidden, precision);
  const rank = loraA ? loraA.length / hidden : 0;
  const pair = low && referenceLogits(low, loraB!, undefined, rank, precision);
  const logits = pair
    ? roundRouting(
        precision,
        base.map((z, i) => z + loraScale * pair[i]!),
      )
    : base;
  const noiseLogits = noiseWeight && referenceLogits(x, noiseWeight, undefined, hidden, precision);
  return {
    logits,
    noiseLogits,
    backward: ({ dLogits, dNoiseLogits }) => {
      const linear = (d: Float64Array, matrix: Float64Array, input: Float64Array, width: number) =>
        matmulBackward(d, matrix, input, width, precision);
      const gradients: { [name: string]: Float64Array } = {};
      const own = linear(dLogits, weight, seen, hidden);
      const intoSeen = [own.dInput];
      if (loraA && loraB) {
        const scaled = roundRouting(
          precision,
          dLogits.map(d => loraScale * d),
        );
        const ofB = linear(scaled, loraB, low!, rank);
        const ofA = linear(roundRouting(precision, ofB.dInput), loraA, seen, hidden);
        intoSeen.push(ofA.dInput);
        Object.assign(gradients, { loraA: ofA.dWeight, loraB: ofB.dWeight });
      } else {
        Object.assign(gradients, { weight: own.dWeight, ...(bias && { bias: own.dBias }) });
      }
      const dSeen = sum(unrounded(precision), intoSeen[0]!, ...intoSeen.slice(1));
      const intoX = [factors ? dSeen.map((d, i) => d * factors[i]!) : dSeen];
      if (noiseWeight) {
        const d = dNoiseLogits ?? new Float64Array(dLogits.length);
        const ofNoise = linear(d, noiseWeight, x, hidden);
        gradients.noiseWeight = ofNoise.dWeight;
        intoX.push(ofNoise.dInput);
      }
      return { dx: sum(unrounded(precision), intoX[0]!, ...intoX.slice(1)), gradients };
    },
  };
}

/** Of out = input · matrixᵀ. */
function matmulBackward(
  dOut: Float64Array,
  matrix: Float64Array,
  input: Float64Array,
  inner: number,
  precision: Precision,
): { dInput: Float64Array; dWeight: Float64Array; dBias: Float64Array } {
  // One group: every token.
  const group = { offsets: [0, input.length / inner], width: matrix.length / inner, inner };
  const dInput = referenceDgrad(dOut, matrix, group, unrounded(precision));
  return { dInput, ...referenceWgrad(dOut, input, group, precision) };
}
