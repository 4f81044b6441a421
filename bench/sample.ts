// The reference on a part of a layer, for a whole one would take minutes: some tokens through all of their experts, and
// some neurons (one column of an expert's intermediate) over all tokens that reach them. Neither depends on the rest.

import type { RouterOptions } from '../src/router.ts';
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
import { referenceMoe } from '../test/reference/moe.ts';
import type { Precision } from '../test/reference/precision.ts';
import { referenceLogits, referenceRouteBackward } from '../test/reference/route.ts';
import type { LayerShape } from './shapes.ts';

/** Everything a layer computes from, with the routing it chose. */
export interface LayerValues {
  readonly shape: LayerShape;
  readonly router: RouterOptions;
  readonly x: Float32Array;
  readonly dy: Float32Array;
  readonly routerWeight: Float32Array;
  /** [E, 2I, H] gated, or [E, I, H] */
  readonly up: Float32Array;
  readonly down: Float32Array;
  readonly indices: Int32Array;
  readonly weights: Float32Array;
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
  const { hidden, experts, topK } = layer.shape;
  const x = takeRows(layer.x, tokens, hidden);
  const dy = takeRows(layer.dy, tokens, hidden);
  const indices = Int32Array.from(takeRows(layer.indices, tokens, topK));
  const weights = takeRows(layer.weights, tokens, topK);
  const dispatch = referenceDispatch(indices, topK, experts);
  const rows = referencePermute(x, dispatch, hidden);
  const dOutputs = referencePermute(dy, dispatch, hidden, weights, precision);
  const { outputs, dRows } = runExperts(
    layer,
    dispatch.offsets,
    rows,
    backward ? dOutputs : undefined,
    precision,
  );
  const results = new Map([['y', referenceUnpermute(outputs, dispatch, hidden, weights, precision)]]);
  if (!backward) return results;
  const dWeights = referenceWeightGradient(outputs, dispatch, hidden, dy, precision);
  const routerWeight = Float64Array.from(layer.routerWeight);
  const logits = referenceLogits(x, routerWeight, undefined, hidden, precision);
  const dLogits = referenceRouteBackward(layer.router, logits, experts, indices, dWeights, precision);
  const group = { offsets: [0, tokens.length], width: experts, inner: hidden };
  const unrounded = { ...precision, round: (value: number) => value };
  const dxRouter = referenceDgrad(dLogits, routerWeight, group, unrounded);
  const dxExperts = referenceUnpermute(dRows, dispatch, hidden, undefined, precision);
  const dx = dxExperts.map((value, i) => precision.round(value + dxRouter[i]!));
  return results.set('dx', dx).set('d.topk.weight', dWeights).set('d.logits', dLogits);
}

/** The experts' outputs, and their input gradients where `dOutputs` is given; one expert's weights are widened at a time. */
function runExperts(
  { shape, up, down }: LayerValues,
  offsets: Int32Array,
  rows: Float64Array,
  dOutputs: Float64Array | undefined,
  precision: Precision,
): { outputs: Float64Array; dRows: Float64Array } {
  const { hidden, intermediate, experts, activation } = shape;
  const upWidth = columnsPerOutput(activation) * intermediate;
  const outputs = new Float64Array(rows.length);
  const dRows = new Float64Array(rows.length);
  const upWeight = new Float64Array(upWidth * hidden);
  const downWeight = new Float64Array(hidden * intermediate);
  for (let e = 0; e < experts; e++) {
    const [begin, end] = [offsets[e]! * hidden, offsets[e + 1]! * hidden];
    if (begin === end) continue;
    const group = [0, (end - begin) / hidden];
    const upGroup = { offsets: group, width: upWidth, inner: hidden };
    const downGroup = { offsets: group, width: hidden, inner: intermediate };
    upWeight.set(up.subarray(e * upWeight.length, (e + 1) * upWeight.length));
    downWeight.set(down.subarray(e * downWeight.length, (e + 1) * downWeight.length));
    const pre = referenceMatmul(rows.subarray(begin, end), upWeight, upGroup, undefined, precision);
    const activated = referenceActivation(activation, pre, intermediate, precision);
    outputs.set(referenceMatmul(activated, downWeight, downGroup, undefined, precision), begin);
    if (!dOutputs) continue;
    const dActivated = referenceDgrad(dOutputs.subarray(begin, end), downWeight, downGroup, precision);
    const dPre = referenceActivationBackward(activation, pre, intermediate, dActivated, precision);
    dRows.set(referenceDgrad(dPre, upWeight, upGroup, precision), begin);
  }
  return { outputs, dRows };
}

/** Some columns of the intermediate, in some experts. */
export interface Neurons {
  readonly experts: readonly number[];
  readonly columns: readonly number[];
}

/** The part [experts, 2·columns, H] or [experts, columns, H] of the up projection that belongs to the neurons. */
export function takeUp(values: Float32Array, shape: LayerShape, { experts, columns }: Neurons): Float64Array {
  const { hidden, intermediate, activation } = shape;
  const halves = Array.from({ length: columnsPerOutput(activation) }, (_, half) => half * intermediate);
  const height = halves.length * intermediate;
  const rows = experts.flatMap(e =>
    halves.flatMap(start => columns.map(column => e * height + start + column)),
  );
  return takeRows(values, rows, hidden);
}

/** The part [experts, H, columns] of the down projection that belongs to the neurons. */
export function takeDown(
  values: Float32Array,
  shape: LayerShape,
  { experts, columns }: Neurons,
): Float64Array {
  const { hidden, intermediate } = shape;
  const elements = experts.flatMap(e =>
    Array.from({ length: hidden }, (_, h) => (e * hidden + h) * intermediate).flatMap(start =>
      columns.map(column => start + column),
    ),
  );
  return takeRows(values, elements, 1);
}

/** The gradients of the neurons' weights: a layer of these experts and columns alone has the same. */
export function sampleNeurons(
  { shape, x, dy, up, down, indices, weights }: LayerValues,
  neurons: Neurons,
  precision: Precision,
): { up: Float64Array; down: Float64Array } {
  const { hidden, topK, activation } = shape;
  const slots = [...indices.keys()].filter(slot => neurons.experts.includes(indices[slot]!));
  const tokens = slots.map(slot => Math.floor(slot / topK));
  const upName = columnsPerOutput(activation) === 2 ? 'experts.gate_up' : 'experts.up';
  const { gradients } = referenceMoe(
    {
      ...{ tokens: slots.length, hidden, intermediate: neurons.columns.length },
      ...{ experts: neurons.experts.length, topK: 1, activation, router: {} },
    },
    { [upName]: takeUp(up, shape, neurons), 'experts.down': takeDown(down, shape, neurons) },
    takeRows(x, tokens, hidden),
    takeRows(dy, tokens, hidden),
    {
      routing: {
        indices: slots.map(slot => neurons.experts.indexOf(indices[slot]!)),
        weights: takeRows(weights, slots, 1),
      },
      precision,
    },
  );
  return { up: gradients[upName]!, down: gradients['experts.down']! };
}
