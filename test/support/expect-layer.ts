// Holds a run of the layer against the float64 reference: everything it returns, by the rule for low precision.

import { expect } from 'vitest';
import { chooseLargest, selectionValues } from '../reference/choice.ts';
import { referenceMoe } from '../reference/moe.ts';
import type { ReferenceRouter } from '../reference/score.ts';
import { expectTwicePlain } from './compare.ts';
import { plainPrecision } from './dtypes.ts';
import { type LayerInputs, type LayerRun, logitsPerToken } from './layer.ts';
import type { Replaced } from './tensors.ts';

/** What experts are ranked by may fall either way in float32 when it is closer than this. */
const NEAR_TIE = 1e-5;

export function expectLayer(
  name: string,
  inputs: LayerInputs,
  actual: Replaced<LayerRun, Float64Array>,
): void {
  const { config, x, dy, dLogits, dtype } = inputs;
  const parameters = Object.fromEntries(
    Object.entries(inputs.parameters).map(([key, { values }]) => [key, values]),
  );
  const routing = inputs.routing ?? { indices: actual.indices };
  const exact = referenceMoe(config, parameters, x, dy, { routing, dLogits });
  const precision = plainPrecision(dtype);
  const plain = referenceMoe(config, parameters, x, dy, { routing, dLogits, precision });
  if (!inputs.routing) {
    const selectionBias = parameters['router.selection_bias'];
    const router = { ...config.router, topK: config.topK, selectionBias, expertScale: undefined };
    expectChosen(name, router, exact.logits, actual.indices, logitsPerToken(config));
  }
  expectTwicePlain(`${name}: weights`, 'float32', actual.weights, exact.weights, plain.weights);
  for (const key of ['y', 'dx'] as const) {
    expectTwicePlain(`${name}: ${key}`, dtype, actual[key], exact[key], plain[key]);
  }
  expectTwicePlain(`${name}: dWeights`, dtype, actual.dWeights, exact.dWeights, plain.dWeights);
  if (exact.dLogits)
    expectTwicePlain(`${name}: dLogits`, dtype, actual.dLogits!, exact.dLogits, plain.dLogits!);
  expect(Object.keys(actual.gradients).sort()).toEqual(Object.keys(exact.gradients).sort());
  for (const [key, gradient] of Object.entries(exact.gradients)) {
    expectTwicePlain(`${name}: d ${key}`, dtype, actual.gradients[key]!, gradient, plain.gradients[key]!);
  }
}

/** K distinct experts of each token, none beaten by an expert left out, in descending order: up to near-ties. */
export function expectChosen(
  name: string,
  router: ReferenceRouter,
  logits: Float64Array,
  indices: ArrayLike<number>,
  experts: number,
): void {
  const { topK } = router;
  for (let t = 0; t < logits.length / experts; t++) {
    const values = selectionValues(router, logits.subarray(t * experts, (t + 1) * experts));
    const best = chooseLargest(values, topK);
    const chosen = Array.from({ length: topK }, (_, k) => indices[t * topK + k]!);
    expect(new Set(chosen).size, `${name}: distinct experts of token ${t}`).toBe(topK);
    for (const [k, expert] of chosen.entries()) {
      expect(values[expert], `${name}: value of choice ${k} of token ${t}`).toBeGreaterThanOrEqual(
        values[best[k]!]! - NEAR_TIE,
      );
    }
  }
}
