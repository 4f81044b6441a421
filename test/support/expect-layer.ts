// Holds a run of the layer against the float64 reference: everything it returns, by the rule for low precision.

import { expect } from 'vitest';
import { type ReferenceOptions, referenceMoe } from '../reference/moe.ts';
import { referenceRoute } from '../reference/route.ts';
import type { ReferenceRouter } from '../reference/router.ts';
import { expectTwicePlain } from './compare.ts';
import { plainPrecision } from './dtypes.ts';
import { type LayerInputs, type LayerRun, logitsPerToken } from './layer.ts';
import type { Replaced } from './tensors.ts';

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
