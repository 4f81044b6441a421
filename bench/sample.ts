// The reference on a part of a layer, for a whole one would take minutes: some tokens through all of their experts, and
// some neurons (one column of an expert's intermediate) over all tokens that reach them. Neither depends on the rest.

import { DTYPES } from '../src/dtype.ts';
import { type ExpertName, type Experts, expertTensors } from '../src/ops/experts.ts';
import { type Tensor, tensorFromPointer } from '../src/tensor.ts';
import {
  columnsPerOutput,
  referenceActivation,
  referenceActivationBackward,
} from '../test/reference/activation.ts';
import {
  referenceDispatch,
  referencePermute,
  referenceUnpermute,
  referenceWeightGradient,
} from '../test/reference/dispatch.ts';
import { referenceDgrad, referenceMatmul } from '../test/reference/grouped-matmul.ts';
import { referenceIdentity, referenceIdentityWeightGradient } from '../test/reference/identity.ts';
import { referenceMoe } from '../test/reference/moe.ts';
import { type Precision, sum, unrounded } from '../test/reference/precision.ts';
import { referenceLogits, referenceRouteBackward } from '../test/reference/route.ts';
import type { ReferenceRouter } from '../test/reference/router.ts';
import { type LayerDesign, logitsPerToken } from './layer-design.ts';
import type { LayerShape } from './shapes.ts';
import { PUBLISHED_NAMES, servedSlots } from './workload.ts';

/** Everything a layer computes from, with the routing it chose. */
export interface LayerValues {
  readonly shape: LayerShape;
  readonly design: LayerDesign;
  readonly router: ReferenceRouter;
  readonly x: Float32Array;
  readonly dy: Float32Array;
  /** [E', H] */
  readonly routerWeight: Float64Array;
  /** [E'] */
  readonly routerBias: Float64Array | undefined;
  /** Read one at a time, for all of them may be most of the memory. */
  readonly experts: Experts;
  /** K' */
  readonly slots: number;
  /** [T, K], where experts are given. */
  readonly given: Int32Array | undefined;
  /** [T, K'] */
  readonly indices: Int32Array;
  readonly weights: Float32Array;
  readonly dropped: Int32Array | undefined;
}

/** The part of a tensor [E, …] that is one expert's, as float32. */
export function expertValues(whole: Tensor, expert: number): Float32Array {
  const { dtype, device } = whole;
  const size = whole.size / whole.shape[0]!;
  const begin = whole.pointer + BigInt(expert * size * DTYPES[dtype].bytes);
  using part = tensorFromPointer(begin, dtype, [size], { device, owner: whole });
  using wide = part.cast('float32');
  return wide.dataSync() as Float32Array;
}

/** Rows `rows` of a matrix of `width` columns. */
export function takeRows(values: ArrayLike<number>, rows: readonly number[], width: number): Float64Array {
  const taken = new Float64Array(rows.length * width);
  for (const [to, from] of rows.entries()) {
    for (let i = 0; i < width; i++) taken[to * width + i] = values[from * width + i]!;
  }
  return taken;
}

/** y, and with `backward` the gradients of the routing weights, the logits and x, at the sampled tokens. */
export function sampleTokens(
  layer: LayerValues,
  tokens: readonly number[],
  backward: boolean,
  precision: Precision,
): Map<string, Float64Array> {
  const { shape, design, slots, dropped: fates, routerWeight } = layer;
  const { hidden, experts } = shape;
  const x = takeRows(layer.x, tokens, hidden);
  const dy = takeRows(layer.dy, tokens, hidden);
  const indices = Int32Array.from(takeRows(layer.indices, tokens, slots));
  const weights = takeRows(layer.weights, tokens, slots);
  const dropped = fates && Int32Array.from(takeRows(fates, tokens, slots));
  const isOnInput = design.applyWeightTo === 'input';
  const [inputWeights, outputWeights] = isOnInput ? [weights, undefined] : [undefined, weights];
  const dispatch = referenceDispatch(indices, slots, experts, dropped);
  const rows = referencePermute(x, dispatch, hidden, inputWeights, precision);
  const dOutputs = referencePermute(dy, dispatch, hidden, outputWeights, precision);
  const { offsets } = dispatch;
  const { outputs, dRows } = runExperts(layer, offsets, rows, backward ? dOutputs : undefined, precision);
  const y = sum(
    precision,
    referenceUnpermute(outputs, dispatch, hidden, outputWeights, precision),
    referenceIdentity(x, dispatch, hidden, weights, precision),
  );
  if (!backward) return new Map([['y', y]]);
  const dWeights = sum(
    unrounded(precision),
    isOnInput
      ? referenceWeightGradient(dRows, dispatch, hidden, x, precision)
      : referenceWeightGradient(outputs, dispatch, hidden, dy, precision),
    referenceIdentityWeightGradient(x, dispatch, hidden, dy, precision),
  );
  const width = logitsPerToken(shape, design);
  const logits = referenceLogits(x, routerWeight, layer.routerBias, hidden, precision);
  const choice = { indices, ...(dropped && { dropped }) };
  const dLogits = referenceRouteBackward(layer.router, logits, width, choice, dWeights, precision);
  const group = { offsets: [0, tokens.length], width, inner: hidden };
  const dx = sum(
    precision,
    referenceUnpermute(dRows, dispatch, hidden, inputWeights, precision),
    referenceIdentity(dy, dispatch, hidden, weights, precision),
    referenceDgrad(dLogits, routerWeight, group, unrounded(precision)),
  );
  return new Map([
    ['y', y],
    ['dx', dx],
    ['d.topk.weight', dWeights],
    ['d.logits', dLogits],
  ]);
}

/** The experts' outputs, and their input gradients where `dOutputs` is given. */
function runExperts(
  { shape, design, experts }: LayerValues,
  offsets: Int32Array,
  rows: Float64Array,
  dOutputs: Float64Array | undefined,
  precision: Precision,
): { outputs: Float64Array; dRows: Float64Array } {
  const { hidden, intermediate, activation } = shape;
  const upWidth = columnsPerOutput(activation) * intermediate;
  const outputs = new Float64Array(rows.length);
  const dRows = new Float64Array(rows.length);
  for (let e = 0; e < shape.experts; e++) {
    const [begin, end] = [offsets[e]! * hidden, offsets[e + 1]! * hidden];
    if (begin === end) continue;
    const group = [0, (end - begin) / hidden];
    const upGroup = { offsets: group, width: upWidth, inner: hidden };
    const downGroup = { offsets: group, width: hidden, inner: intermediate };
    const take = (tensor: Tensor | undefined) => tensor && Float64Array.from(expertValues(tensor, e));
    const upWeight = take(experts.gateUp ?? experts.up)!;
    const downWeight = take(experts.down)!;
    const upBias = take(experts.gateUpBias ?? experts.upBias);
    const pre = referenceMatmul(rows.subarray(begin, end), upWeight, upGroup, upBias, precision);
    const activated = referenceActivation(activation, pre, intermediate, precision, design);
    const downBias = take(experts.downBias);
    outputs.set(referenceMatmul(activated, downWeight, downGroup, downBias, precision), begin);
    if (!dOutputs) continue;
    const dActivated = referenceDgrad(dOutputs.subarray(begin, end), downWeight, downGroup, precision);
    const dPre = referenceActivationBackward(activation, pre, intermediate, dActivated, precision, design);
    dRows.set(referenceDgrad(dPre, upWeight, upGroup, precision), begin);
  }
  return { outputs, dRows };
}

/** Some columns of the intermediate, in some experts. */
export interface Neurons {
  readonly experts: readonly number[];
  readonly columns: readonly number[];
}

/** The part [experts, 2·columns, H] or [experts, columns, H] of the up projection, or [experts, …] of its bias, that is the neurons'. */
function takeUp(
  tensor: Tensor,
  { intermediate, activation }: LayerShape,
  { experts, columns }: Neurons,
): Float64Array {
  const halves = Array.from({ length: columnsPerOutput(activation) }, (_, half) => half * intermediate);
  const rows = halves.flatMap(start => columns.map(column => start + column));
  const width = tensor.size / (tensor.shape[0]! * tensor.shape[1]!);
  return joinValues(experts.map(e => takeRows(expertValues(tensor, e), rows, width)));
}

/** The part [experts, H, columns] of the down projection that is the neurons'. */
function takeDown(
  tensor: Tensor,
  { hidden, intermediate }: LayerShape,
  { experts, columns }: Neurons,
): Float64Array {
  const elements = Array.from({ length: hidden }, (_, h) => h * intermediate).flatMap(start =>
    columns.map(column => start + column),
  );
  return joinValues(experts.map(e => takeRows(expertValues(tensor, e), elements, 1)));
}

/** Of a tensor [E, …] what is the neurons' experts'. */
function takeWhole(tensor: Tensor, _: LayerShape, { experts }: Neurons): Float64Array {
  return joinValues(experts.map(e => Float64Array.from(expertValues(tensor, e))));
}

export function joinValues(parts: readonly Float64Array[]): Float64Array {
  const joined = new Float64Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

/** Gradients of the neurons' parameters, by published name: a layer of these experts and columns alone has the same. */
export function sampleNeurons(
  { shape, design, x, dy, experts, slots, indices, weights, dropped }: LayerValues,
  neurons: Neurons,
  precision: Precision,
): ReadonlyMap<string, Float64Array> {
  const { hidden, activation } = shape;
  const { router, identityExperts, bias, ...options } = design;
  const rows = [...servedSlots(indices, dropped).entries()]
    .filter(([, expert]) => neurons.experts.includes(expert))
    .map(([slot]) => slot);
  const tokens = rows.map(slot => Math.floor(slot / slots));
  const { gradients } = referenceMoe(
    {
      ...{ tokens: rows.length, hidden, intermediate: neurons.columns.length },
      ...{ experts: neurons.experts.length, topK: 1, activation, router: {}, ...options },
    },
    takeNeurons(experts, shape, neurons),
    takeRows(x, tokens, hidden),
    takeRows(dy, tokens, hidden),
    {
      routing: {
        indices: rows.map(slot => neurons.experts.indexOf(indices[slot]!)),
        weights: takeRows(weights, rows, 1),
      },
      precision,
    },
  );
  return new Map(Object.entries(gradients));
}

/** Of experts' parameters, or of their gradients, what is the neurons', by published name. */
export function takeNeurons(
  experts: Partial<Experts>,
  shape: LayerShape,
  neurons: Neurons,
): Record<string, Float64Array> {
  const taken: Record<string, Float64Array> = {};
  for (const [name, tensor] of Object.entries(expertTensors(experts as Experts))) {
    const take = name === 'down' ? takeDown : name === 'downBias' ? takeWhole : takeUp;
    taken[PUBLISHED_NAMES[name as ExpertName]!] = take(tensor, shape, neurons);
  }
  return taken;
}
