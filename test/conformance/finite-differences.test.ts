// The reference's backward pass against central differences of its forward pass: what every kernel is then held against.

import { describe, expect, test } from 'vitest';
import { ACTIVATIONS } from '../../src/index.ts';
import { referenceScoredLogits } from '../reference/logits.ts';
import { type LossOptions, referenceLosses } from '../reference/losses.ts';
import { type ReferenceOptions, type ReferenceParameters, referenceMoe } from '../reference/moe.ts';
import { referenceRoute } from '../reference/route.ts';
import { activationTitle, CLAMPS } from '../support/activations.ts';
import { isFrozen, type LayerCase, layerInputs } from '../support/layer.ts';
import { LAYERS, LAYOUTS, LORAS, layerTitle, SHARED, withPairs } from '../support/layers.ts';
import { LOSSES, lossesOf } from '../support/loss-cases.ts';
import { seeded } from '../support/random.ts';
import { callInputs, optionsOf } from '../support/router-call.ts';
import {
  PROJECTIONS,
  ROUTERS,
  type RouterVariant,
  routerTitle,
  WATCHED_ROUTERS,
} from '../support/routers.ts';

const STEP = 1e-5;
const BOUND = 1e-7;
const DIRECTIONS = 3;
const SMALL: LayerCase = { tokens: 8, hidden: 6, intermediate: 5, experts: 6, topK: 2, bias: true };

const inner = (a: Float64Array, b: ArrayLike<number>) => a.reduce((sum, value, i) => sum + value * b[i]!, 0);

/**
 * Along random directions of x and of each parameter: the slope of ⟨y, dy⟩ + ⟨logits, dLogits⟩, with the choice of experts
 * fixed. The noise logits' own gradient is of them at fixed noisy logits, so it is tried apart, with the losses.
 */
function checkGradients(layer: LayerCase): void {
  const { config, x, dy, dLogits, routing: given, parameters, call } = layerInputs(layer, 'float32', 42);
  const point: { [name: string]: Float64Array } = { x: Float64Array.from(x) };
  for (const [name, { values }] of Object.entries(parameters)) point[name] = Float64Array.from(values);
  const { mask, sequenceLength, step, indices: hash } = call;
  const run = (at: ReferenceParameters, routing: ReferenceOptions['routing']) =>
    referenceMoe(config, at, at.x!, dy, { routing, dLogits, mask, sequenceLength, step });
  const { indices, dropped, dx, gradients } = run(point, given ?? (hash && { indices: hash }));
  const routing = given ?? { indices, dropped };
  const loss = (at: ReferenceParameters) => {
    const { y, logits } = run(at, routing);
    return inner(y, dy) + (dLogits ? inner(logits, dLogits) : 0);
  };
  const random = seeded(43);
  for (const [name, values] of Object.entries(point)) {
    const gradient = name === 'x' ? dx : gradients[name];
    expect(gradient === undefined, `no gradient of ${name}`).toBe(isFrozen(name, point));
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
  const routers = [...ROUTERS, ...PROJECTIONS].map(router => ({ router, title: routerTitle(router) }));
  test.each(routers)('router: $title', ({ router }) => checkGradients({ ...SMALL, router }));
  const VARIANTS = [...LAYERS, ...LAYOUTS, ...LORAS, ...SHARED];
  test.each(VARIANTS.map(layer => ({ layer, title: layerTitle(layer) })))('$title', ({ layer }) => {
    checkGradients({ ...SMALL, ...layer });
  });
  test.each(LAYOUTS.map(layer => ({ layer, title: layerTitle(layer) })))(
    'low-rank pairs beside $title, weight on input',
    ({ layer }) => {
      for (const paired of withPairs(layer)) checkGradients({ ...SMALL, ...paired, applyWeightTo: 'input' });
    },
  );
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

/** Of the raw logits and noise logits, with the choice of experts and the random numbers fixed. */
function checkLossGradients(variant: RouterVariant, options: LossOptions): void {
  const [tokens, experts, topK] = [18, 6, 2];
  const random = seeded(44);
  const call = callInputs(variant, { tokens, topK, width: experts });
  const expertScale = Float64Array.from(random.normals(experts), value => 1 + value / 3);
  const router = { ...optionsOf(variant), ...call, topK, ...(variant.expertScale && { expertScale }) };
  const wide = (deviation: number) => Float64Array.from(random.normals(tokens * experts, deviation));
  const point = { logits: wide(1.5), noise: wide(1) };
  const score = ({ logits, noise }: typeof point) => referenceScoredLogits(router, logits, noise, experts);
  const choice = referenceRoute(router, score(point).logits, experts, call.indices);
  const lossAt = (at: typeof point) => referenceLosses({ router, experts, choice, ...score(at) }, options);
  const here = score(point).toRaw(lossAt(point));
  const gradients = { logits: here.dLogits, noise: here.dNoiseLogits ?? new Float64Array(tokens * experts) };
  const total = (at: typeof point) => lossAt(at).losses.reduce((a, b) => a + b, 0);
  for (const name of ['logits', 'noise'] as const) {
    const direction = random.normals(tokens * experts);
    const moved = (step: number) => ({
      ...point,
      [name]: point[name].map((value, i) => value + step * direction[i]!),
    });
    const difference = (total(moved(STEP)) - total(moved(-STEP))) / (2 * STEP);
    const slope = inner(gradients[name], direction);
    const scale = Math.hypot(...gradients[name]) * Math.hypot(...direction);
    // Where nothing depends on them, the gradient is none at all.
    const error = Math.abs(slope - difference) / (scale || 1);
    if (!(error <= BOUND)) expect.fail(`${name}: slope ${slope}, difference ${difference}`);
  }
}

describe('reference gradients of the router losses against central differences', () => {
  const cases = WATCHED_ROUTERS.flatMap(router =>
    LOSSES.flatMap(([title, optionsFor]) => {
      const options = lossesOf(router, optionsFor(18));
      return options ? [{ router, options, title: `${title}: ${routerTitle(router)}` }] : [];
    }),
  );
  test.each(cases)('$title', ({ router, options }) => checkLossGradients(router, options));
});
