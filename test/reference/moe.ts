// The whole Mixture-of-Experts layer, forward and backward, composed of the reference's ops without any fusion.

import type { RouterOptions } from '../../src/router.ts';
import {
  type ReferenceDispatch,
  referenceDispatch,
  referencePermute,
  referenceUnpermute,
  referenceWeightGradient,
} from './dispatch.ts';
import { type ExpertsConfig, type ReferenceExperts, referenceExperts } from './experts.ts';
import { referenceIdentity, referenceIdentityWeightGradient } from './identity.ts';
import { type RoutedLayer, routeLayer } from './layer-router.ts';
import { FLOAT64, type Precision, sum, unrounded, type Values } from './precision.ts';
import type { RouterCall } from './router.ts';
import { referenceShared, type SharedForward } from './shared.ts';

export interface ReferenceConfig extends ExpertsConfig {
  tokens: number;
  topK: number;
  /** What the routing weight multiplies. Default `output`. */
  applyWeightTo?: 'output' | 'input';
  /** Further experts, ids from `experts` on, that return their input. Default 0. */
  identityExperts?: number;
  shared?: { intermediate: number; count?: number };
  router: Omit<RouterOptions, 'topK' | 'identityExperts'>;
}

/**
 * Parameters by published name: `router.weight` [E', H], `router.bias` [E'], `router.selection_bias` [E'],
 * `router.expert_scale` [E], `router.noise_weight` [E', H], `router.lora_a` [r, H], `router.lora_b` [E', r], `experts.gate_up`
 * [E, 2I, H] or `experts.gate` and `experts.up` [E, I, H], `experts.down` [E, H, I], the experts' biases
 * (`experts.gate_up_bias`, …) and low-rank pairs (`experts.down.lora_a` [E, r, I], `experts.down.lora_b` [E, H, r], …), and the
 * shared experts' `shared.gate`, `shared.up` [n, Is, H], `shared.down` [n, H, Is], `shared.router` [n, H] and
 * `shared.weights` [n].
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
  /** One for each parameter that has one, under its name: the selection bias has none, nor what low-rank pairs leave frozen. */
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
  routed: RoutedLayer;
  dispatch: ReferenceDispatch;
  experts: ReferenceExperts;
  shared: SharedForward | undefined;
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
  const { hidden, topK } = config;
  const { precision = FLOAT64 } = options;
  const routed = routeLayer(config, parameters, x, options);
  const { indices, weights, dropped } = routed;
  const dispatch = referenceDispatch(indices, topK, config.experts, dropped);
  const { inputWeights, outputWeights } = weightSides(config, weights);
  const rows = referencePermute(x, dispatch, hidden, inputWeights, precision);
  const experts = referenceExperts(config, parameters, 'experts', rows, dispatch.offsets, precision);
  const shared = config.shared
    ? referenceShared({ ...config, ...config.shared }, parameters, x, precision)
    : undefined;
  const y = sum(
    precision,
    referenceUnpermute(experts.outputs, dispatch, hidden, outputWeights, precision),
    referenceIdentity(x, dispatch, hidden, weights, precision),
    ...(shared ? [shared.y] : []),
  );
  return { x, y, parameters, routed, dispatch, experts, shared };
}

function moeBackward(
  config: ReferenceConfig,
  forward: Forward,
  dy: Float64Array,
  options: ReferenceOptions,
): ReferenceGradients {
  const { hidden } = config;
  const { precision = FLOAT64 } = options;
  const { x, routed, dispatch, shared } = forward;
  const { weights } = routed;
  const { inputWeights, outputWeights } = weightSides(config, weights);
  const dOutputs = referencePermute(dy, dispatch, hidden, outputWeights, precision);
  const experts = forward.experts.backward(dOutputs);
  const dWeights = sum(
    unrounded(precision),
    inputWeights
      ? referenceWeightGradient(experts.dRows, dispatch, hidden, x, precision)
      : referenceWeightGradient(forward.experts.outputs, dispatch, hidden, dy, precision),
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
