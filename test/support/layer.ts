// One layer problem, made up from a few numbers: its inputs, and its run on a device.

import {
  type Activation,
  type DeviceName,
  type Experts,
  type GivenRouting,
  type MoeForwardArgs,
  type MoeGradients,
  moeBackward,
  moeForward,
  type Routing,
  type SaveMode,
  type Tensor,
} from '../../src/index.ts';
import { columnsPerOutput } from '../reference/activation.ts';
import type { ReferenceConfig } from '../reference/moe.ts';
import { type Float, representable } from './dtypes.ts';
import { type Random, seeded } from './random.ts';
import { type CallInputs, callInputs, optionsOf } from './router-call.ts';
import type { RouterVariant } from './routers.ts';
import { free, upload } from './tensors.ts';

/** What the reference needs to know of a layer, and what its shared expert's gate and its router's vectors are. */
export interface LayerConfig extends Omit<ReferenceConfig, 'router' | 'shared'> {
  router: RouterVariant;
  shared?: {
    intermediate: number;
    /** So many, in tensors of one dimension more. */
    count?: number;
    gate?: 'sigmoid' | 'weights';
  };
}

/** The ranks of the low-rank pairs beside matrices, by the matrices' published names. */
export type LoraRanks = { [matrix in 'gate_up' | 'gate' | 'up' | 'down']?: number };

export interface LayerCase extends Omit<LayerConfig, 'activation' | 'router'> {
  name?: string;
  activation?: Activation;
  router?: RouterVariant;
  /** The experts of slot (t, k), where they are given instead of routed. */
  given?: (token: number, k: number) => number;
  bias?: boolean;
  /** Gate and up in two tensors. */
  separate?: boolean;
  /** Router weight, biases and low-rank pairs in float32 beside 16-bit weights. */
  wide?: boolean;
  lora?: LoraRanks;
  /** Learnt weights of the shared experts beside their sigmoid gates: of the ops alone. */
  sharedWeights?: boolean;
}

export interface LayerInputs {
  dtype: Float;
  config: LayerConfig;
  parameters: { [name: string]: { shape: number[]; dtype: Float; values: Float32Array } };
  x: Float32Array;
  dy: Float32Array;
  /** What the call says of the router's tokens. */
  call: CallInputs;
  /** With a router: further gradients of the logits, and of noisy top-k's noise logits. */
  dLogits?: Float32Array;
  dNoiseLogits?: Float32Array;
  /** Without one. */
  routing?: { indices: Int32Array; weights: Float32Array };
}

/** E' */
export const logitsPerToken = ({
  experts,
  identityExperts = 0,
}: Pick<LayerConfig, 'experts' | 'identityExperts'>) => experts + identityExperts;

/** Unit-scale inputs that `dtype` can hold: with fan-in scaled weights, pre-activations are of unit scale too. */
export function layerInputs(layer: LayerCase, dtype: Float, seed = 1): LayerInputs {
  const { tokens, hidden, activation = 'swiglu', router = {} } = layer;
  const random = seeded(seed);
  const parameters = layerParameters(layer, dtype, random);
  const topK = router.expertChoice ? layer.experts : layer.topK;
  const config = { ...layer, topK, activation, router };
  const x = representable(dtype, random.normals(tokens * hidden));
  const dy = representable(dtype, random.normals(tokens * hidden));
  if (!layer.given) {
    const width = logitsPerToken(layer);
    const call = callInputs(router, { tokens, topK, width });
    const dLogits = random.normals(tokens * width);
    const isNoisy = router.noise?.kind === 'noisyTopK';
    const dNoiseLogits = isNoisy ? random.normals(tokens * width) : undefined;
    return { dtype, config, parameters, x, dy, call, dLogits, dNoiseLogits };
  }
  const slots = Array.from({ length: tokens * topK }, (_, slot) => slot);
  const indices = Int32Array.from(slots, slot => layer.given!(Math.floor(slot / topK), slot % topK));
  const routing = { indices, weights: random.normals(tokens * topK) };
  return { dtype, config, parameters, x, dy, call: {}, routing };
}

function layerParameters(layer: LayerCase, dtype: Float, random: Random): LayerInputs['parameters'] {
  const { wide = false } = layer;
  const parameters: LayerInputs['parameters'] = {};
  for (const [name, { shape, deviation, mean = 0 }] of Object.entries(parameterSpecs(layer))) {
    const mayBeWide = wide && /^(router|shared\.router|shared\.weights)|bias$|lora_[ab]$/.test(name);
    const stored = mayBeWide || name === 'router.selection_bias' ? 'float32' : dtype;
    const values = random
      .normals(
        shape.reduce((a, b) => a * b),
        deviation,
      )
      .map(value => value + mean);
    parameters[name] = { shape, dtype: stored, values: representable(stored, values) };
  }
  return parameters;
}

interface ParameterSpec {
  shape: number[];
  deviation: number;
  mean?: number;
}

/** Every parameter of a layer, by published name, scaled so that what it makes is of unit scale. */
export function parameterSpecs(
  layer: LayerCase,
  routerBias = layer.bias ?? false,
): { [name: string]: ParameterSpec } {
  const { hidden, intermediate, experts, activation = 'swiglu', router = {}, bias = false } = layer;
  const gated = columnsPerOutput(activation) === 2;
  const ups = gated ? (layer.separate ? ['gate', 'up'] : ['gate_up']) : ['up'];
  const width = ups[0] === 'gate_up' ? 2 * intermediate : intermediate;
  const specs: { [name: string]: ParameterSpec } = {};
  if (!layer.given) {
    specs['router.weight'] = matrix(logitsPerToken(layer), hidden);
    if (routerBias) specs['router.bias'] = { shape: [logitsPerToken(layer)], deviation: 0.5 };
    Object.assign(specs, furtherRouterSpecs(layer));
  }
  for (const up of ups) Object.assign(specs, expertMatrix(layer, up, width, hidden));
  Object.assign(specs, expertMatrix(layer, 'down', hidden, intermediate));
  if (bias) for (const up of ups) specs[`experts.${up}_bias`] = { shape: [experts, width], deviation: 0.5 };
  if (bias) specs['experts.down_bias'] = { shape: [experts, hidden], deviation: 0.5 };
  if (router.selectionBias) {
    specs['router.selection_bias'] = { shape: [logitsPerToken(layer)], deviation: 0.3 };
  }
  if (router.expertScale) specs['router.expert_scale'] = { shape: [experts], deviation: 0.5, mean: 1 };
  return { ...specs, ...sharedSpecs(layer, gated) };
}

const matrix = (...shape: number[]): ParameterSpec => ({ shape, deviation: 1 / Math.sqrt(shape.at(-1)!) });

/** A matrix of every expert in the layer's layout, and the pair beside it. */
function expertMatrix(
  { experts, transposed, lora = {} }: LayerCase,
  name: string,
  width: number,
  inner: number,
): { [name: string]: ParameterSpec } {
  const shape = transposed ? [experts, inner, width] : [experts, width, inner];
  const weight = { [`experts.${name}`]: { shape, deviation: 1 / Math.sqrt(inner) } };
  const rank = lora[name as keyof LoraRanks];
  if (rank === undefined) return weight;
  return {
    ...weight,
    [`experts.${name}.lora_a`]: matrix(experts, rank, inner),
    [`experts.${name}.lora_b`]: matrix(experts, width, rank),
  };
}

/** The router's matrices beside its weight. */
function furtherRouterSpecs(layer: LayerCase): { [name: string]: ParameterSpec } {
  const { hidden, router: { noise, loraRank } = {} } = layer;
  const width = logitsPerToken(layer);
  return {
    ...(noise?.kind === 'noisyTopK' && { 'router.noise_weight': matrix(width, hidden) }),
    ...(loraRank && { 'router.lora_a': matrix(loraRank, hidden), 'router.lora_b': matrix(width, loraRank) }),
  };
}

function sharedSpecs(
  { shared, hidden, sharedWeights }: LayerCase,
  gated: boolean,
): { [name: string]: ParameterSpec } {
  if (!shared) return {};
  const { intermediate, count, gate } = shared;
  const several = count === undefined ? [] : [count];
  const n = count ?? 1;
  return {
    ...(gated && { 'shared.gate': matrix(...several, intermediate, hidden) }),
    'shared.up': matrix(...several, intermediate, hidden),
    'shared.down': matrix(...several, hidden, intermediate),
    ...(gate === 'sigmoid' && { 'shared.router': matrix(n, hidden) }),
    ...((gate === 'weights' || sharedWeights) && { 'shared.weights': { shape: [n], deviation: 1 } }),
  };
}

/** Whether a parameter has no gradient: what only chooses experts, and what low-rank pairs leave as it is. */
export const isFrozen = (name: string, parameters: { readonly [name: string]: unknown }): boolean =>
  name === 'router.selection_bias' ||
  ((name === 'router.weight' || name === 'router.bias') && 'router.lora_a' in parameters) ||
  (name.startsWith('experts.') &&
    !name.includes('.lora_') &&
    Object.keys(parameters).some(other => /^experts\..*\.lora_a$/.test(other)));

const camelCase = (name: string) => name.replace(/[_.]([a-z])/g, (_, letter: string) => letter.toUpperCase());

/** A published name in the API's words: `experts.gate_up_bias` → `gateUpBias`, `router.weight` → `routerWeight`. */
const apiName = (name: string) => camelCase(name.replace('experts.', ''));

export interface LayerRun {
  y: Tensor;
  /** [T, K] */
  indices: Tensor;
  weights: Tensor;
  dropped?: Tensor;
  /** [T, E'], as they were scored */
  logits?: Tensor;
  dx: Tensor;
  dWeights: Tensor;
  dLogits?: Tensor;
  dNoiseLogits?: Tensor;
  /** By published name. */
  gradients: { [name: string]: Tensor };
}

export interface RunOptions {
  device?: DeviceName;
  save?: SaveMode;
  /** Buffers by published name that gradients are added to. */
  accumulateInto?: { [name: string]: Tensor };
}

/** The parameters of one part, `router`, `experts` or `shared`, in the API's words. */
function partOf(all: { [name: string]: Tensor }, part: string): { [name: string]: Tensor } {
  const own = Object.entries(all).filter(([name]) => name.startsWith(`${part}.`));
  return Object.fromEntries(own.map(([name, tensor]) => [camelCase(name.slice(part.length + 1)), tensor]));
}

/** The arguments of `moeForward` that hold a problem's inputs. */
export function uploadLayer(
  { config, parameters, x, routing, call, dtype }: LayerInputs,
  device?: DeviceName,
): MoeForwardArgs {
  const { tokens, hidden, topK, identityExperts, loraScale } = config;
  const all: { [name: string]: Tensor } = {};
  for (const [name, { values, shape, dtype: stored }] of Object.entries(parameters)) {
    all[name] = upload(values, shape, stored, device);
  }
  const options = optionsOf(config.router);
  const { activation, activationLimit, activationAlpha, activationUpShift, applyWeightTo } = config;
  const { gateUpLayout, transposed } = config;
  const layout = {
    ...(gateUpLayout && { gateUpLayout }),
    ...(transposed && { transposed }),
    ...(loraScale !== undefined && isFrozen('experts.down', parameters) && { loraScale }),
  };
  const layer = {
    ...{ activation, activationLimit, activationAlpha, activationUpShift, applyWeightTo },
    x: upload(x, [tokens, hidden], dtype, device),
    experts: { ...(partOf(all, 'experts') as unknown as Experts), ...layout },
    shared: config.shared && (partOf(all, 'shared') as unknown as MoeForwardArgs['shared']),
  };
  if (!routing) {
    const { weight, ...others } = partOf(all, 'router');
    const choice = options.expertChoice ? {} : { topK, identityExperts };
    const said = uploadCall(call, tokens, topK, device);
    const router = { ...options, ...choice, ...said, weight: weight!, ...others };
    return { ...layer, router: others.loraA ? { ...router, loraScale } : router };
  }
  const indices = upload(routing.indices, [tokens, topK], 'int32', device);
  return {
    ...layer,
    routing: { indices, weights: upload(routing.weights, [tokens, topK], 'float32', device) },
  };
}

/** What a call says, as the ops take it. */
export function uploadCall(
  { mask, indices, ...said }: CallInputs,
  tokens: number,
  topK: number,
  device?: DeviceName,
) {
  return {
    ...said,
    mask: mask && upload(mask, [tokens], 'int32', device),
    indices: indices && upload(indices, [tokens, topK], 'int32', device),
  };
}

/** Forward and backward of a problem through the fused ops. */
export function runLayer(inputs: LayerInputs, options: RunOptions = {}): LayerRun {
  const { config, dtype } = inputs;
  const { tokens, hidden } = config;
  const { device, save = 'activations', accumulateInto = {} } = options;
  const ofLogits = (values: Float32Array | undefined) =>
    values && upload(values, [tokens, logitsPerToken(config)], 'float32', device);
  const forward = moeForward({ ...uploadLayer(inputs, device), save });
  const backward = moeBackward({
    dy: upload(inputs.dy, [tokens, hidden], dtype, device),
    saved: forward.saved!,
    dLogits: ofLogits(inputs.dLogits),
    dNoiseLogits: ofLogits(inputs.dNoiseLogits),
    accumulateInto: Object.fromEntries(
      Object.entries(accumulateInto).map(([name, into]) => [apiName(name), into]),
    ),
  });
  const { y, routing, saved } = forward;
  const { indices, weights, dropped, logits, counts, noiseLogits } = routing as Partial<Routing> &
    GivenRouting;
  const { block, shared } = saved!;
  free([block.preActivation, block.dispatch, shared?.saved, counts, noiseLogits]);
  const { dx, dWeights, dLogits, dNoiseLogits } = backward;
  const gradients = byPublishedName(inputs, backward);
  return { y, indices, weights, dropped, logits, dx, dWeights, dLogits, dNoiseLogits, gradients };
}

function byPublishedName({ parameters }: LayerInputs, backward: MoeGradients): LayerRun['gradients'] {
  const { experts, shared } = backward;
  const found: { [name: string]: Tensor | undefined } = {
    'router.weight': backward.dRouterWeight,
    'router.bias': backward.dRouterBias,
    'router.expert_scale': backward.dRouterExpertScale,
    'router.noise_weight': backward.dRouterNoiseWeight,
    'router.lora_a': backward.dRouterLoraA,
    'router.lora_b': backward.dRouterLoraB,
    ...Object.fromEntries(Object.entries(shared ?? {}).map(([name, value]) => [`shared.${name}`, value])),
  };
  const gradients: LayerRun['gradients'] = {};
  for (const name of Object.keys(parameters)) {
    const gradient = found[name] ?? (experts as Record<string, Tensor | undefined>)[apiName(name)];
    if (gradient) gradients[name] = gradient;
  }
  return gradients;
}
