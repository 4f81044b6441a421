// Holds a run of the layer against the float64 reference: everything it returns, by the rule for low precision.

import { expect } from 'vitest';
import type { DeviceName, Tensor } from '../../src/index.ts';
import { type ReferenceOptions, referenceMoe } from '../reference/moe.ts';
import { referenceRoute } from '../reference/route.ts';
import type { ReferenceRouter } from '../reference/router.ts';
import { expectSameBytes, expectTwicePlain } from './compare.ts';
import { type Float, plainPrecision, representable } from './dtypes.ts';
import { isFrozen, type LayerInputs, type LayerRun, logitsPerToken, runLayer } from './layer.ts';
import { seeded } from './random.ts';
import { download, type Replaced, upload } from './tensors.ts';

export function expectLayer(
  name: string,
  inputs: LayerInputs,
  actual: Replaced<LayerRun, Float64Array>,
): void {
  const { config, x, dy, dtype } = inputs;
  const parameters = Object.fromEntries(
    Object.entries(inputs.parameters).map(([key, { values }]) => [key, values]),
  );
  const options = referenceOptions(inputs, actual);
  const exact = referenceMoe(config, parameters, x, dy, options);
  const plain = referenceMoe(config, parameters, x, dy, { ...options, precision: plainPrecision(dtype) });
  if (!inputs.routing) {
    expectTwicePlain(`${name}: logits`, 'float32', actual.logits!, exact.logits, plain.logits);
    expectChoice(name, inputs, parameters, actual);
  }
  expectTwicePlain(`${name}: weights`, 'float32', actual.weights, exact.weights, plain.weights);
  for (const key of ['y', 'dx'] as const) {
    expectTwicePlain(`${name}: ${key}`, dtype, actual[key], exact[key], plain[key]);
  }
  expectTwicePlain(`${name}: dWeights`, dtype, actual.dWeights, exact.dWeights, plain.dWeights);
  for (const key of ['dLogits', 'dNoiseLogits'] as const) {
    expect(actual[key] === undefined, `${name}: no ${key}`).toBe(exact[key] === undefined);
    if (exact[key]) expectTwicePlain(`${name}: ${key}`, dtype, actual[key]!, exact[key], plain[key]!);
  }
  expect(Object.keys(actual.gradients).sort()).toEqual(Object.keys(exact.gradients).sort());
  for (const [key, gradient] of Object.entries(exact.gradients)) {
    expectTwicePlain(`${name}: d ${key}`, dtype, actual.gradients[key]!, gradient, plain.gradients[key]!);
  }
}

/** What the reference is told beside the inputs: the choice that was found, whose near-ties may fall either way. */
export function referenceOptions(
  { routing, call, dLogits, dNoiseLogits }: LayerInputs,
  { indices, dropped }: { indices: ArrayLike<number>; dropped?: ArrayLike<number> },
): ReferenceOptions {
  const { mask, sequenceLength, step } = call;
  const found = { mask, sequenceLength, step, dLogits, dNoiseLogits };
  return { ...found, routing: routing ?? { indices, ...(dropped && { dropped }) } };
}

/** Holds a problem's run against the reference, and to the same bits where pre-activations are computed again. */
export function expectRuns(name: string, inputs: LayerInputs, device?: DeviceName): void {
  const saved = download(runLayer(inputs, { device }));
  expectLayer(name, inputs, saved);
  const again = download(runLayer(inputs, { device, save: 'recompute' }));
  expectSameBytes(`${name}: recompute`, again, saved);
}

/** Every gradient added to what buffers of dtype `stored` hold. */
export function expectAdded(inputs: LayerInputs, stored: Float, device?: DeviceName): void {
  const { config, x, dy, dtype } = inputs;
  const random = seeded(9);
  const before: { [name: string]: Float32Array } = {};
  const accumulateInto: { [name: string]: Tensor } = {};
  for (const [name, { shape, values }] of Object.entries(inputs.parameters)) {
    if (isFrozen(name, inputs.parameters)) continue;
    before[name] = representable(stored, random.normals(values.length));
    accumulateInto[name] = upload(before[name], shape, stored, device);
  }
  const run = runLayer(inputs, { device, accumulateInto });
  for (const [name, into] of Object.entries(accumulateInto)) expect(run.gradients[name]).toBe(into);
  const actual = download(run);
  const parameters = Object.fromEntries(
    Object.entries(inputs.parameters).map(([key, { values }]) => [key, values]),
  );
  const options = referenceOptions(inputs, actual);
  const exact = referenceMoe(config, parameters, x, dy, options);
  const plain = referenceMoe(config, parameters, x, dy, { ...options, precision: plainPrecision(dtype) });
  const { round } = plainPrecision(stored);
  for (const [name, gradient] of Object.entries(actual.gradients)) {
    const add = (of: typeof exact) => of.gradients[name]!.map((value, i) => value + before[name]![i]!);
    expectTwicePlain(name, stored, gradient, add(exact), add(plain).map(round));
  }
}

/** From the logits that were found, every choice is exact. */
function expectChoice(
  name: string,
  { config, call }: LayerInputs,
  parameters: { [name: string]: Float32Array },
  { logits, indices, dropped }: Replaced<LayerRun, Float64Array>,
): void {
  const { topK, identityExperts } = config;
  const vectors = {
    selectionBias: parameters['router.selection_bias'],
    expertScale: parameters['router.expert_scale'],
  };
  const router: ReferenceRouter = { ...config.router, ...call, topK, identityExperts, ...vectors };
  const expected = referenceRoute(router, logits!, logitsPerToken(config), call.indices);
  expect(indices, `${name}: indices`).toEqual(Float64Array.from(expected.indices));
  if (dropped) expect(dropped, `${name}: dropped`).toEqual(Float64Array.from(expected.dropped));
  else expect(expected.dropped.some(Boolean), `${name}: dropped`).toBe(false);
}
