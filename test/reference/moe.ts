// The whole Mixture-of-Experts layer, forward and backward, composed of the reference's ops without any fusion.

import type { Activation } from '../../src/activation.ts';
import type { RouterOptions } from '../../src/router.ts';
import { columnsPerOutput, referenceActivation, referenceActivationBackward } from './activation.ts';
import {
  type ReferenceDispatch,
  referenceDispatch,
  referencePermute,
  referenceUnpermute,
  referenceWeightGradient,
} from './dispatch.ts';
import { referenceDgrad, referenceMatmul, referenceWgrad } from './grouped-matmul.ts';
import { FLOAT64, type Precision, type Values } from './precision.ts';
import { referenceLogits, referenceRoute, referenceRouteBackward } from './route.ts';

export interface ReferenceConfig {
  tokens: number;
  hidden: number;
  intermediate: number;
  experts: number;
  topK: number;
  activation: Activation;
  router: Omit<RouterOptions, 'topK'>;
}

/**
 * Parameters by published name: `router.weight` [E, H], `router.bias` [E], `experts.gate_up` [E, 2I, H] or `experts.gate`
 * and `experts.up` [E, I, H], `experts.down` [E, H, I], and the experts' biases (`experts.gate_up_bias`, …).
 */
export type ReferenceParameters = { readonly [name: string]: Values };

export interface ReferenceOptions {
  /**
   * Expert ids [T, K] chosen elsewhere: near-ties may fall differently in low precision. With `weights` too, the layer has
   * no router of its own.
   */
  routing?: { indices: ArrayLike<number>; weights?: Values };
  /** A further gradient of the logits [T, E]. */
  dLogits?: Values;
  /** Default float64 throughout. Inputs are never rounded: pass the values that the dtype stores. */
  precision?: Precision;
}

export interface ReferenceGradients {
  /** [T, H] */
  dx: Float64Array;
  /** [T, K], of the routing weights */
  dWeights: Float64Array;
  /** [T, E], where the layer did the routing */
  dLogits?: Float64Array;
  /** One for each parameter, under its name. */
  gradients: { [name: string]: Float64Array };
}

export interface ReferenceResult extends Partial<ReferenceGradients> {
  /** [T, H] */
  y: Float64Array;
  /** [T, K] */
  indices: Int32Array;
  /** [T, K] */
  weights: Float64Array;
  /** [T, E]; empty where the routing weights were given */
  logits: Float64Array;
}

type Wide = { [name: string]: Float64Array };

/** What the forward pass leaves to the backward pass. */
interface Forward {
  x: Float64Array;
  parameters: Wide;
  /** Gate rows first, then up rows; or up rows alone. */
  up: Halves;
  logits: Float64Array | undefined;
  indices: Int32Array;
  weights: Float64Array;
  dispatch: ReferenceDispatch;
  preActivation: Float64Array;
  activated: Float64Array;
  outputs: Float64Array;
}

interface Halves {
  weight: Float64Array;
  bias: Float64Array | undefined;
}

/** y, routing and, where `dy` is given, the gradient of everything. */
export function referenceMoe(
  config: ReferenceConfig,
  parameters: ReferenceParameters,
  x: Values,
  dy?: undefined,
  options?: ReferenceOptions,
): ReferenceResult;
export function referenceMoe(
  config: ReferenceConfig,
  parameters: ReferenceParameters,
  x: Values,
  dy: Values,
  options?: ReferenceOptions,
): ReferenceResult & ReferenceGradients;
export function referenceMoe(
  config: ReferenceConfig,
  parameters: ReferenceParameters,
  x: Values,
  dy?: Values,
  options: ReferenceOptions = {},
): ReferenceResult {
  const wide: Wide = {};
  for (const [name, values] of Object.entries(parameters)) wide[name] = Float64Array.from(values);
  const forward = moeForward(config, wide, Float64Array.from(x), options);
  const { dispatch, weights, outputs, indices, logits } = forward;
  const y = referenceUnpermute(outputs, dispatch, config.hidden, weights, options.precision);
  const result = { y, indices, weights, logits: logits ?? new Float64Array() };
  if (!dy) return result;
  return { ...result, ...moeBackward(config, forward, Float64Array.from(dy), options) };
}

function moeForward(
  config: ReferenceConfig,
  parameters: Wide,
  x: Float64Array,
  options: ReferenceOptions,
): Forward {
  const { hidden, experts, topK, activation } = config;
  const { precision = FLOAT64 } = options;
  const { logits, indices, weights } = routeLayer(config, parameters, x, options);
  const dispatch = referenceDispatch(indices, topK, experts);
  const rows = referencePermute(x, dispatch, hidden);
  const up = joinHalves(config, parameters);
  const [upGroups, downGroups] = layerGroups(config, dispatch);
  const preActivation = referenceMatmul(rows, up.weight, upGroups, up.bias, precision);
  const activated = referenceActivation(activation, preActivation, config.intermediate, precision);
  const downBias = parameters['experts.down_bias'];
  const outputs = referenceMatmul(activated, parameters['experts.down']!, downGroups, downBias, precision);
  return { x, parameters, up, logits, indices, weights, dispatch, preActivation, activated, outputs };
}

function routeLayer(config: ReferenceConfig, parameters: Wide, x: Float64Array, options: ReferenceOptions) {
  const { topK, experts, hidden } = config;
  const { routing, precision } = options;
  if (routing?.weights) {
    const indices = Int32Array.from(routing.indices);
    return { logits: undefined, indices, weights: Float64Array.from(routing.weights) };
  }
  const logits = referenceLogits(
    x,
    parameters['router.weight']!,
    parameters['router.bias'],
    hidden,
    precision,
  );
  const routed = referenceRoute({ ...config.router, topK }, logits, experts, routing?.indices, precision);
  return { logits, ...routed };
}

function layerGroups({ hidden, intermediate, activation }: ReferenceConfig, { offsets }: ReferenceDispatch) {
  const upWidth = columnsPerOutput(activation) * intermediate;
  return [
    { offsets, width: upWidth, inner: hidden },
    { offsets, width: hidden, inner: intermediate },
  ] as const;
}

function moeBackward(
  config: ReferenceConfig,
  forward: Forward,
  dy: Float64Array,
  options: ReferenceOptions,
): ReferenceGradients {
  const { hidden, intermediate, activation } = config;
  const { precision = FLOAT64 } = options;
  const { x, parameters, dispatch, weights, outputs, activated, preActivation } = forward;
  const [upGroups, downGroups] = layerGroups(config, dispatch);
  const dWeights = referenceWeightGradient(outputs, dispatch, hidden, dy, precision);
  const dOutputs = referencePermute(dy, dispatch, hidden, weights, precision);
  const down = referenceWgrad(dOutputs, activated, downGroups, precision);
  const dActivated = referenceDgrad(dOutputs, parameters['experts.down']!, downGroups, precision);
  const dPre = referenceActivationBackward(activation, preActivation, intermediate, dActivated, precision);
  const up = referenceWgrad(dPre, referencePermute(x, dispatch, hidden), upGroups, precision);
  const dRows = referenceDgrad(dPre, forward.up.weight, upGroups, precision);
  const dxExperts = referenceUnpermute(dRows, dispatch, hidden, undefined, precision);
  const gradients: Wide = { ...splitHalves(config, parameters, up), 'experts.down': down.dWeight };
  if (parameters['experts.down_bias']) gradients['experts.down_bias'] = down.dBias;
  if (!forward.logits) return { dx: dxExperts, dWeights, gradients };
  const router = routerBackward(config, forward, dWeights, options);
  const dx = dxExperts.map((value, i) => precision.round(value + router.dx[i]!));
  return { dx, dWeights, dLogits: router.dLogits, gradients: { ...router.gradients, ...gradients } };
}

function routerBackward(
  config: ReferenceConfig,
  { x, parameters, logits, indices }: Forward,
  dWeights: Float64Array,
  { dLogits: extra, precision = FLOAT64 }: ReferenceOptions,
) {
  const { tokens, hidden, experts, topK } = config;
  const router = { ...config.router, topK };
  const own = referenceRouteBackward(router, logits!, experts, indices, dWeights, precision);
  const dLogits = extra ? own.map((value, i) => value + extra[i]!) : own;
  // The router is a matmul of one group: every token.
  const group = { offsets: [0, tokens], width: experts, inner: hidden };
  const dx = referenceDgrad(dLogits, parameters['router.weight']!, group, {
    ...precision,
    round: value => value,
  });
  const { dWeight, dBias } = referenceWgrad(dLogits, x, group, precision);
  const gradients: Wide = { 'router.weight': dWeight };
  if (parameters['router.bias']) gradients['router.bias'] = dBias;
  return { dLogits, dx, gradients };
}

/** Gate and up as one weight [E, 2I, H] and bias [E, 2I], however they are given; or up alone. */
function joinHalves(config: ReferenceConfig, parameters: Wide): Halves {
  const { intermediate, hidden, experts, activation } = config;
  if (columnsPerOutput(activation) === 1) {
    return { weight: parameters['experts.up']!, bias: parameters['experts.up_bias'] };
  }
  const join = (suffix: string, size: number) => {
    const packed = parameters[`experts.gate_up${suffix}`];
    const gate = parameters[`experts.gate${suffix}`];
    const up = parameters[`experts.up${suffix}`];
    if (packed || !gate || !up) return packed;
    const out = new Float64Array(experts * 2 * size);
    for (let e = 0; e < experts; e++) {
      out.set(gate.subarray(e * size, (e + 1) * size), 2 * e * size);
      out.set(up.subarray(e * size, (e + 1) * size), (2 * e + 1) * size);
    }
    return out;
  };
  return { weight: join('', intermediate * hidden)!, bias: join('_bias', intermediate) };
}

/** The gradients of the up projection under the names its parameters were given. */
function splitHalves(
  config: ReferenceConfig,
  parameters: Wide,
  { dWeight, dBias }: { dWeight: Float64Array; dBias: Float64Array },
): Wide {
  const gradients: Wide = {};
  for (const [suffix, joined] of [
    ['', dWeight],
    ['_bias', dBias],
  ] as const) {
    const packed =
      columnsPerOutput(config.activation) === 1 ? `experts.up${suffix}` : `experts.gate_up${suffix}`;
    if (parameters[packed]) {
      gradients[packed] = joined;
    } else if (parameters[`experts.up${suffix}`]) {
      const size = joined.length / (2 * config.experts);
      gradients[`experts.gate${suffix}`] = takeHalf(joined, size, 0);
      gradients[`experts.up${suffix}`] = takeHalf(joined, size, 1);
    }
  }
  return gradients;
}

function takeHalf(joined: Float64Array, size: number, half: 0 | 1): Float64Array {
  const out = new Float64Array(joined.length / 2);
  for (let at = 0; at < out.length; at += size)
    out.set(joined.subarray(2 * at + half * size, 2 * at + (half + 1) * size), at);
  return out;
}
