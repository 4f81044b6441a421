// The reference's backward pass against central differences of its forward pass: what every kernel is then held against.

import { describe, expect, test } from 'vitest';
import { ACTIVATIONS } from '../../src/index.ts';
import { type ReferenceParameters, referenceMoe } from '../reference/moe.ts';
import { activationTitle, CLAMPS } from '../support/activations.ts';
import { type LayerCase, layerInputs } from '../support/layer.ts';
import { LAYERS, layerTitle } from '../support/layers.ts';
import { seeded } from '../support/random.ts';
import { ROUTERS, routerTitle } from '../support/routers.ts';

const STEP = 1e-5;
const BOUND = 1e-7;
const DIRECTIONS = 3;
const SMALL: LayerCase = { tokens: 7, hidden: 6, intermediate: 5, experts: 6, topK: 2, bias: true };

const inner = (a: Float64Array, b: ArrayLike<number>) => a.reduce((sum, value, i) => sum + value * b[i]!, 0);

/** Along random directions of x and of each parameter: the slope of ⟨y, dy⟩ + ⟨logits, dLogits⟩, with the choice of experts fixed. */
function checkGradients(layer: LayerCase): void {
  const { config, x, dy, dLogits, routing: given, parameters } = layerInputs(layer, 'float32', 42);
  const point: { [name: string]: Float64Array } = { x: Float64Array.from(x) };
  for (const [name, { values }] of Object.entries(parameters)) point[name] = Float64Array.from(values);
  const run = (
    at: ReferenceParameters,
    routing: { indices: ArrayLike<number>; weights?: Float32Array } | undefined,
  ) => referenceMoe(config, at, at.x!, dy, { routing, dLogits });
  const { indices, dx, gradients } = run(point, given);
  const routing = given ?? { indices };
  const loss = (at: ReferenceParameters) => {
    const { y, logits } = run(at, routing);
    return inner(y, dy) + (dLogits ? inner(logits, dLogits) : 0);
  };
  const random = seeded(43);
  for (const [name, values] of Object.entries(point)) {
    const gradient = name === 'x' ? dx : gradients[name];
    // It only chooses: with the choice fixed, nothing depends on it.
    if (name === 'router.selection_bias') expect(gradient).toBeUndefined();
    if (!gradient) continue;
    for (let i = 0; i < DIRECTIONS; i++) {
      const direction = random.normals(values.length);
      const moved = (step: number) => ({
        ...point,
        [name]: values.map((value, j) => value + step * direction[j]!),
      });
      const difference = (loss(moved(STEP)) - loss(moved(-STEP))) / (2 * STEP);
      const slope = inner(gradient, direction);
      const scale = Math.hypot(...gradient) * Math.hypot(...direction);
      const error = Math.abs(slope - difference) / scale;
      if (!(error <= BOUND)) expect.fail(`d ${name}: slope ${slope}, difference ${difference}`);
    }
  }
}

describe('reference gradients against central differences', () => {
  test.each(ACTIVATIONS)('%s', activation => checkGradients({ ...SMALL, activation }));
  test.each(CLAMPS.map(form => ({ form, title: activationTitle(form) })))('$title', ({ form }) => {
    checkGradients({ ...SMALL, ...form });
  });
  test.each(ROUTERS.map(router => ({ router, title: routerTitle(router) })))(
    'router: $title',
    ({ router }) => {
      checkGradients({ ...SMALL, router });
    },
  );
  test.each(LAYERS.map(layer => ({ layer, title: layerTitle(layer) })))('$title', ({ layer }) => {
    checkGradients({ ...SMALL, ...layer });
  });
  test('every expert chosen', () => checkGradients({ ...SMALL, topK: 6, router: { normalize: true } }));
  test('separate gate and up', () => checkGradients({ ...SMALL, separate: true }));
  test('given routing', () => checkGradients({ ...SMALL, given: (t, k) => (t + 3 * k) % 4 }));
  test('given routing: the gradient of its weights', () => {
    const { config, x, dy, routing, parameters } = layerInputs(
      { ...SMALL, given: (t, k) => (t * k) % 4 },
      'float32',
    );
    const { indices, weights } = routing!;
    const values = Object.fromEntries(
      Object.entries(parameters).map(([name, parameter]) => [name, parameter.values]),
    );
    const run = (at: Float64Array) =>
      referenceMoe(config, values, x, dy, { routing: { indices, weights: at } });
    const point = Float64Array.from(weights);
    const direction = seeded(5).normals(point.length);
    const moved = (step: number) => inner(run(point.map((w, i) => w + step * direction[i]!)).y, dy);
    const difference = (moved(STEP) - moved(-STEP)) / (2 * STEP);
    expect(inner(run(point).dWeights, direction) / difference).toBeCloseTo(1, 7);
  });
});
