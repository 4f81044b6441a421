// Shared experts: every token visits all of them, as if routed. What each one's output is multiplied by is σ(x · its row of
// shared.routerᵀ), its own learnt number in shared.weights, the product of both, or 1.

import {
  referenceDispatch,
  referencePermute,
  referenceUnpermute,
  referenceWeightGradient,
} from './dispatch.ts';
import { type ExpertsConfig, type Parameters, referenceExperts } from './experts.ts';
import { referenceDgrad, referenceWgrad } from './grouped-matmul.ts';
import { FLOAT64, type Precision, roundRouting, sum } from './precision.ts';
import { referenceLogits } from './route.ts';

export interface SharedConfig extends Omit<ExpertsConfig, 'experts'> {
  tokens: number;
  /** n, default 1 */
  count?: number;
}

export interface SharedForward {
  /** [T, H], to be added to the routed experts' */
  y: Float64Array;
  /** The gradients of x and of the parameters, by name. */
  backward(dy: Float64Array): { dx: Float64Array; gradients: Parameters };
}

/**
 * Parameters: `shared.up` [n, Is, H] and `shared.down` [n, H, Is]; `shared.gate` [n, Is, H] if gated; `shared.router` [n, H] and
 * `shared.weights` [n] where there are such.
 */
export function referenceShared(
  config: SharedConfig,
  parameters: Parameters,
  x: Float64Array,
  precision: Precision = FLOAT64,
): SharedForward {
  const { hidden, tokens, count = 1 } = config;
  const everyExpert = Int32Array.from({ length: tokens * count }, (_, slot) => slot % count);
  const dispatch = referenceDispatch(everyExpert, count, count);
  const rows = referencePermute(x, dispatch, hidden, undefined, precision);
  // Whatever the layout of the routed experts beside them: gate and up are apart, and not transposed.
  const sizes = { ...config, experts: count, transposed: false };
  const experts = referenceExperts(sizes, parameters, 'shared', rows, dispatch.offsets, precision);
  const factors = sharedFactors(config, parameters, x, precision);
  return {
    y: referenceUnpermute(experts.outputs, dispatch, hidden, factors.values, precision),
    backward: dy => {
      const dOutputs = referencePermute(dy, dispatch, hidden, factors.values, precision);
      const { dRows, gradients } = experts.backward(dOutputs);
      const dFactors = referenceWeightGradient(experts.outputs, dispatch, hidden, dy, precision);
      const ofFactors = factors.backward(dFactors);
      const dx = referenceUnpermute(dRows, dispatch, hidden, undefined, precision);
      return {
        dx: sum(precision, dx, ...ofFactors.dx),
        gradients: { ...gradients, ...ofFactors.gradients },
      };
    },
  };
}

interface Factors {
  /** [T, n] */
  values: Float64Array;
  /** The gradients of x, where the factors depend on it, and of the parameters. */
  backward(dFactors: Float64Array): { dx: Float64Array[]; gradients: Parameters };
}

function sharedFactors(
  { tokens, hidden, count = 1 }: SharedConfig,
  parameters: Parameters,
  x: Float64Array,
  precision: Precision,
): Factors {
  const router = parameters['shared.router'];
  const weights = parameters['shared.weights'];
  const gates = router
    ? referenceLogits(x, router, undefined, hidden, precision).map(z => 1 / (1 + Math.exp(-z)))
    : new Float64Array(tokens * count).fill(1);
  // The gates are a matmul of one group: every token.
  const group = { offsets: [0, tokens], width: count, inner: hidden };
  const weightOf = (slot: number) => weights?.[slot % count] ?? 1;
  return {
    values: roundRouting(
      precision,
      gates.map((gate, slot) => gate * weightOf(slot)),
    ),
    backward: dFactors => {
      const gradients: Parameters = {};
      if (weights) {
        const dWeighted = dFactors.map((d, slot) => d * gates[slot]!);
        // A sum over tokens, as a bias's gradient is.
        gradients['shared.weights'] = referenceWgrad(dWeighted, x, group, precision).dBias;
      }
      if (!router) return { dx: [], gradients };
      const dLogits = dFactors.map((d, slot) => d * weightOf(slot) * gates[slot]! * (1 - gates[slot]!));
      gradients['shared.router'] = referenceWgrad(dLogits, x, group, precision).dWeight;
      return { dx: [referenceDgrad(dLogits, router, group, precision)], gradients };
    },
  };
}
