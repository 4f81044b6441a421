// The whole Mixture-of-Experts layer, forward and backward, composed of the reference's ops without any fusion.

import type { Activation } from '../../src/activation.ts';
import type { RouterOptions } from '../../src/router.ts';
import {
  type ActivationNumbers,
  columnsPerOutput,
  referenceActivation,
  referenceActivationBackward,
} from './activation.ts';
import {
  type ReferenceDispatch,
  referenceDispatch,
  referencePermute,
  referenceUnpermute,
  referenceWeightGradient,
} from './dispatch.ts';
import { referenceDgrad, referenceMatmul, referenceWgrad } from './grouped-matmul.ts';
import { referenceIdentity, referenceIdentityWeightGradient } from './identity.ts';
import { type RoutedLayer, routeLayer } from './layer-router.ts';
import { FLOAT64, type Precision, sum, unrounded, type Values } from './precision.ts';
import type { RouterCall } from './router.ts';
import { referenceShared, type SharedForward } from './shared.ts';

export interface ReferenceConfig extends ActivationNumbers {
  tokens: number;
  hidden: number;
  intermediate: number;
  experts: number;
  /** E where experts choose. */
  topK: number;
  activation: Activation;
  /** What the routing weight multiplies. Default `output`. */
  applyWeightTo?: 'output' | 'input';
  /** Further experts, ids from `experts` on, that return their input. Default 0. */
  identityExperts?: number;
  shared?: { intermediate: number };
  /** What low-rank pairs are multiplied by. Default 1. */
  loraScale?: number;
  router: Omit<RouterOptions, 'topK' | 'identityExperts'>;
}

/**
 * Parameters by published name: `router.weight` [E', H], `router.bias` [E'], `router.selection_bias` [E'],
 * `router.expert_scale` [E], `router.noise_weight` [E', H], `router.lora_a` [r, H], `router.lora_b` [E', r], `experts.gate_up` [E, 2I, H] or `experts.gate` and `experts.up` [E, I, H], `experts.down`
 * [E, H, I], the experts' biases (`experts.gate_up_bias`, …), and the shared expert's `shared.gate`, `shared.up` [Is, H],
 * `shared.down` [H, Is] and `shared.router` [1, H].
 */
export type ReferenceParameters = { readonly [name: string]: Values };

export interface ReferenceOptions extends RouterCall {
  /**
   * Expert ids [T, K] chosen elsewhere, and which slots are dropped: near-ties may fall differently in low precision. With
   * `weights` too, the layer has no router of its own.
   */
  routing?: { indices: ArrayLike<number>; dropped?: ArrayLike<number>; weights?: Values };
  /** A further gradient of the scored logits [T, E']. */
  dLogits?: Values;
  /** A further gradient of the noise logits [T, E']. */
  dNoiseLogits?: Values;
  /** Default float64 throughout. Inputs are never rounded: pass the values that the dtype stores. */
  precision?: Precision;
}

export interface ReferenceGradients {
  /** [T, H] */
  dx: Float64Array;
  /** [T, K], of the routing weights; 0 where dropped */
  dWeights: Float64Array;
  /** [T, E'], of x · weightᵀ, where the layer did the routing */
  dLogits?: Float64Array;
  /** [T, E'], of x · noiseWeightᵀ, with noisy top-k that is on */
  dNoiseLogits?: Float64Array;
  /** One for each parameter that has one, under its name: the selection bias has none. */
  gradients: { [name: string]: Float64Array };
}

export interface ReferenceResult extends Partial<ReferenceGradients> {
  /** [T, H] */
  y: Float64Array;
  /** [T, K] */
  indices: Int32Array;
  /** [T, K] */
  weights: Float64Array;
  /** [T, K], what became of each slot */
  dropped?: Int32Array;
  /** [T, E'], as they were scored; empty where the routing weights were given */
  logits: Float64Array;
  /** [T, E'], with noisy top-k that is on */
  noiseLogits?: Float64Array;
}

type Wide = { [name: string]: Float64Array };

/** What the forward pass leaves to the backward pass. */
interface Forward {
  x: Float64Array;
  y: Float64Array;
  parameters: Wide;
  /** Gate rows first, then up rows; or up rows alone. */
  up: Halves;
  routed: RoutedLayer;
  dispatch: ReferenceDispatch;
  /** x by row, weighted if the weight applies to the input */
  rows: Float64Array;
  preActivation: Float64Array;
  activated: Float64Array;
  outputs: Float64Array;
  shared: SharedForward | undefined;
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
  const { indices, weights, dropped, logits = new Float64Array(), noiseLogits } = forward.routed;
  const result = { y: forward.y, indices, weights, dropped, logits, noiseLogits };
  if (!dy) return result;
  return { ...result, ...moeBackward(config, forward, Float64Array.from(dy), options) };
}

/** The weights [T, K] as the dispatch takes them, and as the combine does: one of the two multiplies. */
function weightSides(config: ReferenceConfig, weights: Float64Array) {
  return config.applyWeightTo === 'input'
    ? { inputWeights: weights, outputWeights: undefined }
    : { inputWeights: undefined, outputWeights: weights };
}

function moeForward(
  config: ReferenceConfig,
  parameters: Wide,
  x: Float64Array,
  options: ReferenceOptions,
): Forward {
  const { hidden, intermediate, experts, topK, activation } = config;
  const { precision = FLOAT64 } = options;
  const routed = routeLayer(config, parameters, x, options);
  const { indices, weights, dropped } = routed;
  const dispatch = referenceDispatch(indices, topK, experts, dropped);
  const { inputWeights, outputWeights } = weightSides(config, weights);
  const rows = referencePermute(x, dispatch, hidden, inputWeights, precision);
  const up = joinHalves(config, parameters);
  const [upGroups, downGroups] = layerGroups(config, dispatch);
  const preActivation = referenceMatmul(rows, up.weight, upGroups, up.bias, precision);
  const activated = referenceActivation(activation, preActivation, intermediate, precision, config);
  const downBias = parameters['experts.down_bias'];
  const outputs = referenceMatmul(activated, parameters['experts.down']!, downGroups, downBias, precision);
  const shared = config.shared
    ? referenceShared({ ...config, ...config.shared, numbers: config }, parameters, x, precision)
    : undefined;
  const y = sum(
    precision,
    referenceUnpermute(outputs, dispatch, hidden, outputWeights, precision),
    referenceIdentity(x, dispatch, hidden, weights, precision),
    ...(shared ? [shared.y] : []),
  );
  return { x, y, parameters, up, routed, dispatch, rows, preActivation, activated, outputs, shared };
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
  const { hidden } = config;
  const { precision = FLOAT64 } = options;
  const { x, routed, dispatch, outputs, shared } = forward;
  const { weights } = routed;
  const { inputWeights } = weightSides(config, weights);
  const experts = expertsBackward(config, forward, dy, precision);
  const dWeights = sum(
    unrounded(precision),
    inputWeights
      ? referenceWeightGradient(experts.dRows, dispatch, hidden, x, precision)
      : referenceWeightGradient(outputs, dispatch, hidden, dy, precision),
    referenceIdentityWeightGradient(x, dispatch, hidden, dy, precision),
  );
  const sharedGradients = shared?.backward(dy);
  const router = routed.backward?.(dWeights, options);
  const dx = sum(
    precision,
    referenceUnpermute(experts.dRows, dispatch, hidden, inputWeights, precision),
    referenceIdentity(dy, dispatch, hidden, weights, precision),
    ...(sharedGradients ? [sharedGradients.dx] : []),
    ...(router ? [router.dx] : []),
  );
  const gradients = { ...router?.gradients, ...experts.gradients, ...sharedGradients?.gradients };
  return { dx, dWeights, dLogits: router?.dLogits, dNoiseLogits: router?.dNoiseLogits, gradients };
}

/** The gradients of the experts' parameters, and of their input rows. */
function expertsBackward(
  config: ReferenceConfig,
  { parameters, routed, dispatch, rows, activated, preActivation, up }: Forward,
  dy: Float64Array,
  precision: Precision,
): { dRows: Float64Array; gradients: Wide } {
  const { hidden, intermediate, activation } = config;
  const [upGroups, downGroups] = layerGroups(config, dispatch);
  const { outputWeights } = weightSides(config, routed.weights);
  const dOutputs = referencePermute(dy, dispatch, hidden, outputWeights, precision);
  const down = referenceWgrad(dOutputs, activated, downGroups, precision);
  const dActivated = referenceDgrad(dOutputs, parameters['experts.down']!, downGroups, precision);
  const dPre = referenceActivationBackward(
    activation,
    preActivation,
    intermediate,
    dActivated,
    precision,
    config,
  );
  const dUp = referenceWgrad(dPre, rows, upGroups, precision);
  const gradients: Wide = { ...splitHalves(config, parameters, dUp), 'experts.down': down.dWeight };
  if (parameters['experts.down_bias']) gradients['experts.down_bias'] = down.dBias;
  return { dRows: referenceDgrad(dPre, up.weight, upGroups, precision), gradients };
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
