// The shared expert: every token's, its output multiplied by σ(x · shared.routerᵀ) where it has a gate of its own.

import type { Activation } from '../../src/activation.ts';
import {
  type ActivationNumbers,
  columnsPerOutput,
  referenceActivation,
  referenceActivationBackward,
} from './activation.ts';
import { referenceDgrad, referenceMatmul, referenceWgrad } from './grouped-matmul.ts';
import { dot, FLOAT64, type Precision, sum } from './precision.ts';

export interface SharedConfig {
  tokens: number;
  hidden: number;
  /** Its own width, Is */
  intermediate: number;
  activation: Activation;
  numbers: ActivationNumbers;
}

/** `shared.up` [Is, H] and `shared.down` [H, Is]; `shared.gate` [Is, H] if gated; `shared.router` [1, H] if it has one. */
type Parameters = { [name: string]: Float64Array };

export interface SharedForward {
  /** [T, H], to be added to the routed experts' */
  y: Float64Array;
  /** The gradients of x and of the parameters, by name. */
  backward(dy: Float64Array): { dx: Float64Array; gradients: Parameters };
}

export function referenceShared(
  config: SharedConfig,
  parameters: Parameters,
  x: Float64Array,
  precision: Precision = FLOAT64,
): SharedForward {
  const { hidden } = config;
  const expert = sharedExpert(config, parameters, x, precision);
  const router = parameters['shared.router'];
  if (!router) return { y: expert.out, backward: expert.backward };
  const factors = Float64Array.from({ length: config.tokens }, (_, t) => {
    const factor = 1 / (1 + Math.exp(-dot(precision, x, t * hidden, router, 0, hidden)));
    return precision.float32Sums ? Math.fround(factor) : factor;
  });
  const times = (rows: Float64Array) =>
    rows.map((value, i) => precision.round(factors[Math.floor(i / hidden)]! * value));
  return {
    y: times(expert.out),
    backward: dy => {
      const { dx, gradients } = expert.backward(times(dy));
      const dLogits = factors.map(
        (factor, t) => factor * (1 - factor) * dot(precision, dy, t * hidden, expert.out, t * hidden, hidden),
      );
      // The gate is a matmul of one group and one column.
      const group = { offsets: [0, config.tokens], width: 1, inner: hidden };
      const dxRouter = referenceDgrad(dLogits, router, group, precision);
      const { dWeight } = referenceWgrad(dLogits, x, group, precision);
      return { dx: sum(precision, dx, dxRouter), gradients: { ...gradients, 'shared.router': dWeight } };
    },
  };
}

/** One expert whose group is every token. */
function sharedExpert(
  { tokens, hidden, intermediate, activation, numbers }: SharedConfig,
  parameters: Parameters,
  x: Float64Array,
  precision: Precision,
) {
  const [up, down] = [parameters['shared.up']!, parameters['shared.down']!];
  const gated = columnsPerOutput(activation) === 2;
  const weight = gated ? Float64Array.from([...parameters['shared.gate']!, ...up]) : up;
  const offsets = [0, tokens];
  const upGroup = { offsets, width: columnsPerOutput(activation) * intermediate, inner: hidden };
  const downGroup = { offsets, width: hidden, inner: intermediate };
  const pre = referenceMatmul(x, weight, upGroup, undefined, precision);
  const activated = referenceActivation(activation, pre, intermediate, precision, numbers);
  return {
    out: referenceMatmul(activated, down, downGroup, undefined, precision),
    backward: (dOut: Float64Array) => {
      const dActivated = referenceDgrad(dOut, down, downGroup, precision);
      const dPre = referenceActivationBackward(activation, pre, intermediate, dActivated, precision, numbers);
      const { dWeight } = referenceWgrad(dPre, x, upGroup, precision);
      const gradients: Parameters = {
        'shared.up': gated ? dWeight.slice(up.length) : dWeight,
        'shared.down': referenceWgrad(dOut, activated, downGroup, precision).dWeight,
      };
      if (gated) gradients['shared.gate'] = dWeight.slice(0, up.length);
      return { dx: referenceDgrad(dPre, weight, upGroup, precision), gradients };
    },
  };
}
