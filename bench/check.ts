// Holds a workload's result against the float64 reference before it is timed: routing of all tokens, outputs and input
// gradients of some tokens, weight gradients of some neurons, the router's gradient whole.

import { type Comparison, compare, GRADIENT_BOUND, relativeError, VALUE_BOUND } from '../src/compare.ts';
import type { FloatDType } from '../src/dtype.ts';
import { lowPrecisionBound, plainPrecision } from '../src/low-precision.ts';
import type { MoeGradients } from '../src/ops/moe.ts';
import type { Tensor } from '../src/tensor.ts';
import { referenceWgrad } from '../test/reference/grouped-matmul.ts';
import { FLOAT64, type Precision } from '../test/reference/precision.ts';
import { referenceLogits, referenceRoute } from '../test/reference/route.ts';
import { routerOptions } from './layer-design.ts';
import {
  type LayerValues,
  type Neurons,
  sampleNeurons,
  sampleTokens,
  takeNeurons,
  takeRows,
} from './sample.ts';
import {
  disposeForward,
  disposeGradients,
  rowsPerExpert,
  servedSlots,
  type Workload,
  type WorkloadForward,
} from './workload.ts';

const SAMPLED_TOKENS = 4;
const SAMPLED_EXPERTS = 3;
const SAMPLED_COLUMNS = 4;
/** Float32 tells logits apart that differ by this, and what is computed of them. */
const TIE = 1e-5;

/** What is no gradient. */
const VALUES = ['y', 'up', 'down', 'combine'];

type Results = Map<string, Float64Array>;

/** Compares what was computed with what the reference computes, in the workload's precision. */
type Judge = (actual: Results, reference: (precision: Precision) => Results) => Comparison[];

/** Every checked quantity with its error and bound. With `backward` the gradients too. */
export async function checkWorkload(workload: Workload, backward: boolean): Promise<Comparison[]> {
  const forward = workload.forward(backward ? 'activations' : 'nothing');
  const gradients = backward ? workload.backward(forward.saved!) : undefined;
  try {
    const layer = await readLayer(workload, forward);
    const judge = judgeFor(workload);
    const comparisons = [
      ...(await checkRouting(layer, forward)),
      ...(await checkTokens(layer, forward, gradients, judge)),
    ];
    if (!gradients) return comparisons;
    return [
      ...comparisons,
      ...(await checkRouterGradient(layer, gradients, judge)),
      ...checkNeurons(layer, gradients, judge),
    ];
  } finally {
    disposeForward(forward);
    if (gradients) disposeGradients(gradients);
  }
}

export function judgeFor({ dtype }: Workload): Judge {
  return (actual, reference) => {
    const exact = reference(FLOAT64);
    const bound = boundsFor(dtype, exact, reference);
    return [...exact].map(([name, values]) =>
      compare(name, relativeError(actual.get(name)!, values), bound(name)),
    );
  };
}

function boundsFor(
  dtype: FloatDType,
  exact: Results,
  reference: (precision: Precision) => Results,
): (name: string) => number {
  if (dtype === 'float32') return name => (VALUES.includes(name) ? VALUE_BOUND : GRADIENT_BOUND);
  const plain = reference(plainPrecision(dtype));
  return name => lowPrecisionBound(dtype, exact.get(name)!, plain.get(name)!);
}

export async function readLayer(
  { shape, design, x, dy, router, experts }: Workload,
  { routing }: Pick<WorkloadForward, 'routing'>,
): Promise<LayerValues> {
  const { weight, bias, selectionBias, sequenceLength, indices: given } = router;
  const read = async (tensor: Tensor | undefined) => tensor && Float64Array.from(await tensor.float32());
  return {
    ...{ shape, design, experts },
    router: {
      ...{ ...routerOptions(shape, design), sequenceLength },
      selectionBias: await read(selectionBias),
    },
    ...{ x: await x.float32(), dy: await dy.float32() },
    ...{ routerWeight: (await read(weight))!, routerBias: await read(bias) },
    slots: routing.indices.shape[1]!,
    given: (await given?.data()) as Int32Array | undefined,
    indices: (await routing.indices.data()) as Int32Array,
    weights: await routing.weights.float32(),
    dropped: (await routing.dropped?.data()) as Int32Array | undefined,
  };
}

/** Routing is in float32 whatever the dtype, and so are its bounds. Its choice and its weights are those of the logits it found. */
export async function checkRouting(
  layer: LayerValues,
  { routing }: Pick<WorkloadForward, 'routing'>,
): Promise<Comparison[]> {
  const { router, x, routerWeight, routerBias, indices, weights, dropped } = layer;
  const { hidden } = layer.shape;
  const exact = referenceLogits(Float64Array.from(x), routerWeight, routerBias, hidden);
  const logits = Float64Array.from(await routing.logits.float32());
  const choice = { indices, ...(dropped && { dropped }) };
  const expected = referenceRoute(router, logits, routing.logits.shape[1]!, choice);
  return [
    compare('logits', relativeError(logits, exact), VALUE_BOUND),
    compare('topk.index', shareOfWrongTokens(layer, logits), 0),
    compare('topk.weight', relativeError(weights, expected.weights), VALUE_BOUND),
  ];
}

/**
 * A choice is right that the reference makes too once the logits of what was chosen are {@link TIE} larger: what is nearer may be
 * ranked either way in float32.
 */
function shareOfWrongTokens(layer: LayerValues, logits: Float64Array): number {
  const { router, slots, given, indices, dropped } = layer;
  const served = servedSlots(indices, dropped);
  const width = (logits.length / indices.length) * slots;
  const nudged = logits.slice();
  for (const [slot, expert] of (router.expertChoice ? served : indices).entries())
    if (expert >= 0) nudged[Math.floor(slot / slots) * width + expert]! += TIE;
  const expected = referenceRoute(router, nudged, width, given);
  const wanted = servedSlots(expected.indices, expected.dropped);
  const tokens = indices.length / slots;
  const of = (all: Int32Array, token: number) =>
    all
      .slice(token * slots, (token + 1) * slots)
      .sort()
      .join();
  let wrong = 0;
  for (let token = 0; token < tokens; token++) {
    const isRight =
      of(indices, token) === of(expected.indices, token) && of(served, token) === of(wanted, token);
    if (!isRight) wrong++;
  }
  return wrong / tokens;
}

/** `count` indices below `size` from first to last, evenly spaced; fewer where there are fewer. */
export function spread(size: number, count: number): number[] {
  const step = (size - 1) / Math.max(1, count - 1);
  return [...new Set(Array.from({ length: count }, (_, i) => Math.floor(i * step)))];
}

async function checkTokens(
  layer: LayerValues,
  { y }: WorkloadForward,
  gradients: MoeGradients | undefined,
  judge: Judge,
): Promise<Comparison[]> {
  const tokens = someTokens(layer);
  const take = async (tensor: Tensor) => takeRows(await tensor.float32(), tokens, tensor.shape[1]!);
  const actual: Results = new Map([['y', await take(y)]]);
  if (gradients) {
    actual.set('dx', await take(gradients.dx));
    actual.set('d.topk.weight', await take(gradients.dWeights));
    actual.set('d.logits', await take(gradients.dLogits!));
  }
  return judge(actual, precision => sampleTokens(layer, tokens, gradients !== undefined, precision));
}

/** Those with a slot that is served, from first to last, and one without, where there is one. */
export function someTokens({ shape, slots, indices, dropped }: LayerValues): number[] {
  const served = servedSlots(indices, dropped);
  const isServed = (token: number) =>
    served.subarray(token * slots, (token + 1) * slots).some(expert => expert >= 0);
  const [some, none] = [true, false].map(wanted =>
    Array.from({ length: shape.tokens }, (_, token) => token).filter(token => isServed(token) === wanted),
  ) as [number[], number[]];
  return [...spread(some.length, SAMPLED_TOKENS).map(i => some[i]!), ...none.slice(0, 1)];
}

/** Follows from the gradient of the logits, which {@link checkTokens} has checked. */
async function checkRouterGradient(
  { shape, x, routerBias }: LayerValues,
  { dLogits, dRouterWeight, dRouterBias }: MoeGradients,
  judge: Judge,
): Promise<Comparison[]> {
  const { tokens, hidden } = shape;
  const read = async (tensor: Tensor) => Float64Array.from(await tensor.float32());
  const given = await read(dLogits!);
  const group = { offsets: [0, tokens], width: dLogits!.shape[1]!, inner: hidden };
  const actual: Results = new Map([['d.router.weight', await read(dRouterWeight!)]]);
  if (routerBias) actual.set('d.router.bias', await read(dRouterBias!));
  return judge(actual, precision => {
    const { dWeight, dBias } = referenceWgrad(given, Float64Array.from(x), group, precision);
    return new Map([
      ['d.router.weight', dWeight],
      ...(routerBias ? [['d.router.bias', dBias] as const] : []),
    ]);
  });
}

function checkNeurons(layer: LayerValues, { experts }: MoeGradients, judge: Judge): Comparison[] {
  const { shape } = layer;
  const columns = spread(shape.intermediate, SAMPLED_COLUMNS);
  const neurons: Neurons = { experts: fewestToMostRows(layer), columns };
  const actual = Object.entries(takeNeurons(experts, shape, neurons));
  return judge(new Map(actual.map(([name, values]) => [`d.${name}`, values])), precision => {
    const expected = [...sampleNeurons(layer, neurons, precision)];
    return new Map(expected.map(([name, values]) => [`d.${name}`, values]));
  });
}

/** Some of the experts that have rows, from the one with fewest to the one with most. */
function fewestToMostRows({ shape, indices, dropped }: LayerValues): number[] {
  const rows = rowsPerExpert(servedSlots(indices, dropped), shape.experts);
  const used = [...rows.keys()].filter(e => rows[e]! > 0).sort((a, b) => rows[a]! - rows[b]!);
  return spread(used.length, SAMPLED_EXPERTS).map(i => used[i]!);
}
