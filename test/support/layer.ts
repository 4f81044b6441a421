// One layer problem, made up from a few numbers: its inputs, and its run on a device.

import {
  type Activation,
  type DeviceName,
  type ExpertName,
  type Experts,
  type GivenRouting,
  type MoeGradients,
  moeBackward,
  moeForward,
  type RouterOptions,
  type SaveMode,
  type Tensor,
} from '../../src/index.ts';
import { columnsPerOutput } from '../reference/activation.ts';
import type { ReferenceConfig } from '../reference/moe.ts';
import { type Float, representable } from './dtypes.ts';
import { type Random, seeded } from './random.ts';
import { free, upload } from './tensors.ts';

export interface LayerCase {
  name?: string;
  tokens: number;
  hidden: number;
  intermediate: number;
  experts: number;
  topK: number;
  activation?: Activation;
  router?: Omit<RouterOptions, 'topK'>;
  /** The experts of slot (t, k), where they are given instead of routed. */
  given?: (token: number, k: number) => number;
  bias?: boolean;
  /** Gate and up in two tensors. */
  separate?: boolean;
  /** Router weight and biases in float32 beside 16-bit weights. */
  wide?: boolean;
}

export interface LayerInputs {
  dtype: Float;
  config: ReferenceConfig;
  parameters: { [name: string]: { shape: number[]; dtype: Float; values: Float32Array } };
  x: Float32Array;
  dy: Float32Array;
  /** With a router: a further gradient of the logits. */
  dLogits?: Float32Array;
  /** Without one. */
  routing?: { indices: Int32Array; weights: Float32Array };
}

/** Unit-scale inputs that `dtype` can hold: with fan-in scaled weights, pre-activations are of unit scale too. */
export function layerInputs(layer: LayerCase, dtype: Float, seed = 1): LayerInputs {
  const { tokens, hidden, experts, topK, activation = 'swiglu', router = {} } = layer;
  const random = seeded(seed);
  const parameters = layerParameters(layer, dtype, random);
  const config = { ...layer, activation, router };
  const x = representable(dtype, random.normals(tokens * hidden));
  const dy = representable(dtype, random.normals(tokens * hidden));
  if (!layer.given) return { dtype, config, parameters, x, dy, dLogits: random.normals(tokens * experts) };
  const slots = Array.from({ length: tokens * topK }, (_, slot) => slot);
  const indices = Int32Array.from(slots, slot => layer.given!(Math.floor(slot / topK), slot % topK));
  return { dtype, config, parameters, x, dy, routing: { indices, weights: random.normals(tokens * topK) } };
}

function layerParameters(layer: LayerCase, dtype: Float, random: Random): LayerInputs['parameters'] {
  const { hidden, intermediate, experts, activation = 'swiglu', wide = false, bias = false } = layer;
  const parameters: LayerInputs['parameters'] = {};
  const add = (name: string, shape: number[], deviation: number) => {
    const stored = wide && (name.startsWith('router.') || name.endsWith('bias')) ? 'float32' : dtype;
    const count = shape.reduce((a, b) => a * b);
    parameters[name] = {
      shape,
      dtype: stored,
      values: representable(stored, random.normals(count, deviation)),
    };
  };
  const gated = columnsPerOutput(activation) === 2;
  const ups = gated ? (layer.separate ? ['gate', 'up'] : ['gate_up']) : ['up'];
  const width = ups[0] === 'gate_up' ? 2 * intermediate : intermediate;
  if (!layer.given) {
    add('router.weight', [experts, hidden], 1 / Math.sqrt(hidden));
    if (bias) add('router.bias', [experts], 0.5);
  }
  for (const up of ups) add(`experts.${up}`, [experts, width, hidden], 1 / Math.sqrt(hidden));
  add('experts.down', [experts, hidden, intermediate], 1 / Math.sqrt(intermediate));
  if (bias) for (const up of ups) add(`experts.${up}_bias`, [experts, width], 0.5);
  if (bias) add('experts.down_bias', [experts, hidden], 0.5);
  return parameters;
}

/** A published name in the API's words: `experts.gate_up_bias` → `gateUpBias`, `router.weight` → `routerWeight`. */
function apiName(name: string): string {
  return name.replace('experts.', '').replace(/[_.]([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

export interface LayerRun {
  y: Tensor;
  /** [T, K] */
  indices: Tensor;
  weights: Tensor;
  dx: Tensor;
  dWeights: Tensor;
  dLogits?: Tensor;
  /** By published name. */
  gradients: { [name: string]: Tensor };
}

export interface RunOptions {
  device?: DeviceName;
  save?: SaveMode;
  /** Buffers by published name that gradients are added to. */
  accumulateInto?: { [name: string]: Tensor };
}

interface Uploaded {
  x: Tensor;
  experts: Experts;
  router?: RouterOptions & { weight: Tensor; bias?: Tensor };
  routing?: GivenRouting;
}

/** The arguments of `moeForward` that hold a problem's inputs. */
export function uploadLayer(
  { config, parameters, x, routing, dtype }: LayerInputs,
  device?: DeviceName,
): Uploaded {
  const { tokens, hidden, topK } = config;
  const all: { [name: string]: Tensor } = {};
  for (const [name, { values, shape, dtype: stored }] of Object.entries(parameters)) {
    all[name] = upload(values, shape, stored, device);
  }
  const { 'router.weight': weight, 'router.bias': bias, ...rest } = all;
  const experts = Object.fromEntries(Object.entries(rest).map(([name, tensor]) => [apiName(name), tensor]));
  const layer = { x: upload(x, [tokens, hidden], dtype, device), experts: experts as unknown as Experts };
  if (!routing) return { ...layer, router: { ...config.router, topK, weight: weight!, bias } };
  const indices = upload(routing.indices, [tokens, topK], 'int32', device);
  return {
    ...layer,
    routing: { indices, weights: upload(routing.weights, [tokens, topK], 'float32', device) },
  };
}

/** Forward and backward of a problem through the fused ops. */
export function runLayer(inputs: LayerInputs, options: RunOptions = {}): LayerRun {
  const { config, dtype } = inputs;
  const { activation, tokens, hidden, experts } = config;
  const { device, save = 'activations', accumulateInto = {} } = options;
  const forward = moeForward({ ...uploadLayer(inputs, device), activation, save });
  const backward = moeBackward({
    dy: upload(inputs.dy, [tokens, hidden], dtype, device),
    saved: forward.saved!,
    dLogits: inputs.dLogits && upload(inputs.dLogits, [tokens, experts], 'float32', device),
    accumulateInto: Object.fromEntries(
      Object.entries(accumulateInto).map(([name, into]) => [apiName(name), into]),
    ),
  });
  const { y, routing, saved } = forward;
  free([saved!.preActivation, saved!.dispatch, 'logits' in routing ? [routing.logits, routing.counts] : []]);
  const { indices, weights } = routing;
  const { dx, dWeights, dLogits } = backward;
  return { y, indices, weights, dx, dWeights, dLogits, gradients: byPublishedName(inputs, backward) };
}

function byPublishedName({ parameters }: LayerInputs, backward: MoeGradients): LayerRun['gradients'] {
  const { dRouterWeight, dRouterBias, experts } = backward;
  const gradients: LayerRun['gradients'] = {};
  for (const name of Object.keys(parameters)) {
    if (name === 'router.weight') gradients[name] = dRouterWeight!;
    else if (name === 'router.bias') gradients[name] = dRouterBias!;
    else gradients[name] = experts[apiName(name) as ExpertName]!;
  }
  return gradients;
}
