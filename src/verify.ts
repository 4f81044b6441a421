// Runs a golden case on this package's kernels, forward and backward, and judges every output. In float32 against the
// case's own numbers; in low precision against the float64 reference on the rounded inputs, where a result may have twice
// the error of a plain computation in that precision.

import { type ReferenceGradients, type ReferenceResult, referenceMoe } from '../test/reference/moe.ts';
import { type Comparison, compare, GRADIENT_BOUND, relativeError, VALUE_BOUND } from './compare.ts';
import type { FloatDType } from './dtype.ts';
import type { GoldenCase } from './golden.ts';
import { MoELayer, type NamedTensors } from './layer.ts';
import { type LowPrecisionDType, lowPrecisionBound, plainPrecision } from './low-precision.ts';
import { type DeviceName, type Tensor, tensor } from './tensor.ts';

export interface VerifyOptions {
  readonly device: DeviceName;
  readonly dtype: FloatDType;
}

type Floats = ArrayLike<number>;

/** What a layer computes, routing in ascending order of expert ids. */
interface Outcome {
  readonly indices: Int32Array;
  /** `topk.weight`, `y`, `dx` and `d.…` of every parameter */
  readonly floats: ReadonlyMap<string, Floats>;
}

/** The values a dtype stored, as float32. */
interface Inputs {
  readonly parameters: { readonly [name: string]: Float32Array };
  readonly x: Float32Array;
  readonly dy: Float32Array;
}

/**
 * Every output of the case with its error and its bound; a routing's error is the share of tokens whose set of experts differs.
 * @throws MoeError if the layer cannot be run
 */
export async function verifyCase(
  golden: GoldenCase,
  { device, dtype }: VerifyOptions,
): Promise<Comparison[]> {
  const { actual, inputs } = await runLayer(golden, { device, dtype });
  const { topK } = golden.config;
  if (dtype === 'float32') return compareOutcomes(actual, goldenOutcome(golden), topK, float32Bound);
  const { exact, plain } = referenceOutcomes(golden, inputs, dtype);
  return compareOutcomes(actual, exact, topK, name =>
    // Routing is in float32 whatever the dtype.
    name === 'topk.weight'
      ? VALUE_BOUND
      : lowPrecisionBound(dtype, exact.floats.get(name)!, plain.floats.get(name)!),
  );
}

function float32Bound(name: string): number {
  return name.startsWith('d') ? GRADIENT_BOUND : VALUE_BOUND;
}

async function runLayer(
  golden: GoldenCase,
  options: VerifyOptions,
): Promise<{ actual: Outcome; inputs: Inputs }> {
  const { tokens, config, x, dy } = golden;
  const weights: NamedTensors = {};
  for (const [name, { values, shape }] of golden.parameters) {
    // The selection bias is float32 whatever the dtype.
    const dtype = name === 'router.selection_bias' ? 'float32' : options.dtype;
    weights[name] = tensor(values, shape, { ...options, dtype });
  }
  using layer = new MoELayer({ ...config, ...options }, { weights });
  using input = tensor(x, [tokens, config.hidden], options);
  using dOutput = tensor(dy, [tokens, config.hidden], options);
  const { y, routing, saved } = layer.forwardTrain(input);
  const { dx, gradients } = layer.backward(saved, dOutput);
  const indices = (await routing.indices.data()) as Int32Array;
  const actual = outcome(config.topK, indices, await routing.weights.float32(), {
    y: await y.float32(),
    dx: await dx.float32(),
    ...(await readAll(gradients, 'd.')),
  });
  const inputs = {
    parameters: await readAll(layer.parameters),
    x: await input.float32(),
    dy: await dOutput.float32(),
  };
  for (const made of [y, dx, ...Object.values(gradients)]) made.dispose();
  saved.dispose();
  return { actual, inputs };
}

async function readAll(
  tensors: Readonly<Record<string, Tensor>>,
  prefix = '',
): Promise<Record<string, Float32Array>> {
  const values: Record<string, Float32Array> = {};
  for (const [name, tensor] of Object.entries(tensors)) values[`${prefix}${name}`] = await tensor.float32();
  return values;
}

function goldenOutcome({ config, expected }: GoldenCase): Outcome {
  const { indices, weights, y, dx, gradients } = expected;
  const named = [...gradients].map(([name, values]) => [`d.${name}`, values] as const);
  return outcome(config.topK, indices, weights, { y, dx, ...Object.fromEntries(named) });
}

/** The exact outcome on the rounded inputs, and that of a plain computation that stores everything in `dtype`. */
function referenceOutcomes(
  { tokens, config }: GoldenCase,
  { parameters, x, dy }: Inputs,
  dtype: LowPrecisionDType,
): { exact: Outcome; plain: Outcome } {
  const layer = { ...config, tokens };
  const exact = referenceMoe(layer, parameters, x, dy);
  // Told which experts to take: a near-tie that falls differently would say nothing about the arithmetic.
  const routing = { indices: exact.indices };
  const rounded = referenceMoe(layer, parameters, x, dy, { precision: plainPrecision(dtype), routing });
  const toOutcome = ({ indices, weights, y, dx, gradients }: ReferenceResult & ReferenceGradients) => {
    const named = Object.entries(gradients).map(([name, values]) => [`d.${name}`, values] as const);
    return outcome(config.topK, indices, weights, { y, dx, ...Object.fromEntries(named) });
  };
  return { exact: toOutcome(exact), plain: toOutcome(rounded) };
}

/** Sorts every token's slots by expert id, for the order of the slots is no part of the result. */
function outcome(
  topK: number,
  indices: Int32Array,
  weights: Floats,
  floats: Record<string, Floats>,
): Outcome {
  const order = Array.from(indices.keys()).sort(
    (a, b) => Math.floor(a / topK) - Math.floor(b / topK) || indices[a]! - indices[b]!,
  );
  const sorted = Float64Array.from(order, slot => weights[slot]!);
  return {
    indices: Int32Array.from(order, slot => indices[slot]!),
    floats: new Map([['topk.weight', sorted], ...Object.entries(floats)]),
  };
}

function compareOutcomes(
  actual: Outcome,
  expected: Outcome,
  topK: number,
  bound: (name: string) => number,
): Comparison[] {
  const wrongTokens = new Set<number>();
  for (const [slot, expert] of expected.indices.entries()) {
    if (actual.indices[slot] !== expert) wrongTokens.add(Math.floor(slot / topK));
  }
  const tokens = expected.indices.length / topK;
  const comparisons = [compare('topk.index', tokens === 0 ? 0 : wrongTokens.size / tokens, 0)];
  for (const [name, values] of expected.floats) {
    comparisons.push(compare(name, relativeError(actual.floats.get(name)!, values), bound(name)));
  }
  return comparisons;
}
