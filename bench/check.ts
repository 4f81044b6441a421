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
import {
  type LayerValues,
  type Neurons,
  sampleNeurons,
  sampleTokens,
  takeDown,
  takeRows,
  takeUp,
} from './sample.ts';
import {
  disposeForward,
  disposeGradients,
  PUBLISHED_NAMES,
  type Workload,
  type WorkloadForward,
} from './workload.ts';

const SAMPLED_TOKENS = 4;
const SAMPLED_EXPERTS = 3;
const SAMPLED_COLUMNS = 4;
/** Logits closer than this may be ranked either way in float32. */
const TIE = 1e-4;

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
    const comparisons = [...checkRouting(layer), ...(await checkTokens(layer, forward, gradients, judge))];
    if (!gradients) return comparisons;
    return [
      ...comparisons,
      ...(await checkRouterGradient(layer, gradients, judge)),
      ...(await checkNeurons(workload, layer, gradients, judge)),
    ];
  } finally {
    disposeForward(forward);
    if (gradients) disposeGradients(gradients);
  }
}

function judgeFor({ dtype }: Workload): Judge {
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
  if (dtype === 'float32') return name => (name === 'y' ? VALUE_BOUND : GRADIENT_BOUND);
  const plain = reference(plainPrecision(dtype));
  return name => lowPrecisionBound(dtype, exact.get(name)!, plain.get(name)!);
}

async function readLayer(
  { shape, x, dy, router, experts, upName }: Workload,
  { routing }: WorkloadForward,
): Promise<LayerValues> {
  const { weight, ...options } = router;
  return {
    shape,
    router: options,
    x: await x.float32(),
    dy: await dy.float32(),
    routerWeight: await weight.float32(),
    up: await experts[upName]!.float32(),
    down: await experts.down.float32(),
    indices: (await routing.indices.data()) as Int32Array,
    weights: await routing.weights.float32(),
  };
}

/** Routing is in float32 whatever the dtype, and so are its bounds. */
function checkRouting({ shape, router, x, routerWeight, indices, weights }: LayerValues): Comparison[] {
  const { tokens, hidden, experts, topK } = shape;
  const logits = referenceLogits(Float64Array.from(x), Float64Array.from(routerWeight), undefined, hidden);
  let wrong = 0;
  for (let t = 0; t < tokens; t++) {
    const chosen = indices.subarray(t * topK, (t + 1) * topK);
    const tokenLogits = logits.subarray(t * experts, (t + 1) * experts);
    if (!areLargest(chosen, tokenLogits)) wrong++;
  }
  const expected = referenceRoute(router, logits, experts, indices).weights;
  return [
    compare('topk.index', wrong / tokens, 0),
    compare('topk.weight', relativeError(weights, expected), VALUE_BOUND),
  ];
}

function areLargest(chosen: Int32Array, logits: Float64Array): boolean {
  const threshold = logits.slice().sort().at(-chosen.length)!;
  return new Set(chosen).size === chosen.length && chosen.every(expert => logits[expert]! >= threshold - TIE);
}

/** `count` indices below `size` from first to last, evenly spaced; fewer where there are fewer. */
function spread(size: number, count: number): number[] {
  const step = (size - 1) / Math.max(1, count - 1);
  return [...new Set(Array.from({ length: count }, (_, i) => Math.floor(i * step)))];
}

async function checkTokens(
  layer: LayerValues,
  { y }: WorkloadForward,
  gradients: MoeGradients | undefined,
  judge: Judge,
): Promise<Comparison[]> {
  const tokens = spread(layer.shape.tokens, SAMPLED_TOKENS);
  const take = async (tensor: Tensor) => takeRows(await tensor.float32(), tokens, tensor.shape[1]!);
  const actual: Results = new Map([['y', await take(y)]]);
  if (gradients) {
    actual.set('dx', await take(gradients.dx));
    actual.set('d.topk.weight', await take(gradients.dWeights));
    actual.set('d.logits', await take(gradients.dLogits!));
  }
  return judge(actual, precision => sampleTokens(layer, tokens, gradients !== undefined, precision));
}

/** Follows from the gradient of the logits, which {@link checkTokens} has checked. */
async function checkRouterGradient(
  { shape, x }: LayerValues,
  gradients: MoeGradients,
  judge: Judge,
): Promise<Comparison[]> {
  const { tokens, hidden, experts } = shape;
  const name = 'd.router.weight';
  const dLogits = Float64Array.from(await gradients.dLogits!.float32());
  const group = { offsets: [0, tokens], width: experts, inner: hidden };
  return judge(
    new Map([[name, Float64Array.from(await gradients.dRouterWeight!.float32())]]),
    precision => new Map([[name, referenceWgrad(dLogits, Float64Array.from(x), group, precision).dWeight]]),
  );
}

async function checkNeurons(
  { upName }: Workload,
  layer: LayerValues,
  { experts }: MoeGradients,
  judge: Judge,
): Promise<Comparison[]> {
  const { shape } = layer;
  const columns = spread(shape.intermediate, SAMPLED_COLUMNS);
  const neurons: Neurons = { experts: fewestToMostRows(layer), columns };
  const names = { up: `d.${PUBLISHED_NAMES[upName]}`, down: `d.${PUBLISHED_NAMES.down}` };
  const actual: Results = new Map([
    [names.up, takeUp(await experts[upName]!.float32(), shape, neurons)],
    [names.down, takeDown(await experts.down!.float32(), shape, neurons)],
  ]);
  return judge(actual, precision => {
    const { up, down } = sampleNeurons(layer, neurons, precision);
    return new Map([
      [names.up, up],
      [names.down, down],
    ]);
  });
}

/** Some of the experts that have rows, from the one with fewest to the one with most. */
function fewestToMostRows({ shape, indices }: LayerValues): number[] {
  const counts = new Int32Array(shape.experts);
  for (const expert of indices) counts[expert]!++;
  const used = [...counts.keys()].filter(e => counts[e]! > 0).sort((a, b) => counts[a]! - counts[b]!);
  return spread(used.length, SAMPLED_EXPERTS).map(i => used[i]!);
}
