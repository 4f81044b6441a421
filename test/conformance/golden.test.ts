// Layers that others wrote: forward and backward through the fused ops, through the separate ones, and the reference.

import { describe, expect, test } from 'vitest';
import { readGolden as readGoldenFile } from '../../src/golden.ts';
import { verifyCase } from '../../src/verify.ts';
import { referenceMoe } from '../reference/moe.ts';
import { expectClose } from '../support/compare.ts';
import { GOLDEN_CASES, type GoldenCase, goldenPath, readGolden } from '../support/golden.ts';
import { type LayerInputs, layerInputs, runLayer } from '../support/layer.ts';
import { LAYERS, LAYOUTS, SHARED } from '../support/layers.ts';
import { PROJECTIONS, ROUTERS } from '../support/routers.ts';
import { runSeparateOps } from '../support/separate-ops.ts';
import { DEVICES, DTYPES } from '../support/targets.ts';
import { download } from '../support/tensors.ts';

const FORWARD_BOUND = 1e-5;
const GRADIENT_BOUND = 1e-4;

interface Outcome {
  y: ArrayLike<number>;
  indices: ArrayLike<number>;
  weights: ArrayLike<number>;
  dx: ArrayLike<number>;
  dWeights: ArrayLike<number>;
  dropped?: ArrayLike<number>;
  logits?: ArrayLike<number>;
  dLogits?: ArrayLike<number>;
  dNoiseLogits?: ArrayLike<number>;
  gradients: { [name: string]: ArrayLike<number> };
}

function expectGolden(golden: GoldenCase, actual: Outcome): void {
  const { tensors, config } = golden;
  const sorted = sortedByExpert(actual, config.topK);
  expect(sorted.indices).toEqual([...golden.indices]);
  expectClose('weights', sorted.weights, tensors['topk.weight']!.values, FORWARD_BOUND);
  expectClose('y', actual.y, tensors.y!.values, FORWARD_BOUND);
  expectClose('dx', actual.dx, tensors.dx!.values, GRADIENT_BOUND);
  for (const name of parameterNames(golden)) {
    // It only chooses.
    if (name === 'router.selection_bias') continue;
    expectClose(name, actual.gradients[name]!, tensors[`d.${name}`]!.values, GRADIENT_BOUND);
  }
}

const parameterNames = ({ tensors }: GoldenCase) =>
  Object.keys(tensors).filter(name => /^(router|experts|shared)\./.test(name));

/** The files list each token's experts ascending by id. */
function sortedByExpert(
  { indices, weights }: Outcome,
  topK: number,
): { indices: number[]; weights: number[] } {
  const slots = Array.from({ length: indices.length }, (_, slot) => slot);
  const order = slots.sort(
    (a, b) => Math.floor(a / topK) - Math.floor(b / topK) || indices[a]! - indices[b]!,
  );
  return { indices: order.map(slot => indices[slot]!), weights: order.map(slot => weights[slot]!) };
}

function problem(golden: GoldenCase): LayerInputs {
  const { config, tensors } = golden;
  const parameters = parameterNames(golden).map(
    name => [name, { ...tensors[name]!, dtype: 'float32' }] as const,
  );
  const { x, dy } = tensors;
  return {
    dtype: 'float32',
    call: {},
    config,
    parameters: Object.fromEntries(parameters),
    x: x!.values,
    dy: dy!.values,
  };
}

/** Fused and separate ops may differ by what is rounded in between. */
function expectSame(separate: Outcome, fused: Outcome): void {
  expect(separate.indices).toEqual(fused.indices);
  expectClose('y, fused and separate', separate.y, fused.y, 1e-6);
  expectClose('dx, fused and separate', separate.dx, fused.dx, 2e-6);
  expect(separate.dropped).toEqual(fused.dropped);
  for (const key of ['logits', 'dLogits', 'dNoiseLogits'] as const) {
    expect(separate[key] === undefined).toBe(fused[key] === undefined);
    if (fused[key]) expectClose(`${key}, fused and separate`, separate[key]!, fused[key], 2e-6);
  }
  expectClose('dWeights, fused and separate', separate.dWeights, fused.dWeights, 2e-6);
  expect(Object.keys(separate.gradients).sort()).toEqual(Object.keys(fused.gradients).sort());
  for (const [key, gradient] of Object.entries(fused.gradients)) {
    expectClose(`d ${key}, fused and separate`, separate.gradients[key]!, gradient, 2e-6);
  }
}

describe.each(GOLDEN_CASES)('golden case %s', name => {
  const golden = readGolden(name);
  const inputs = problem(golden);

  test('reference', () => {
    const parameters = Object.fromEntries(
      Object.entries(inputs.parameters).map(([key, { values }]) => [key, values]),
    );
    expectGolden(golden, referenceMoe(golden.config, parameters, inputs.x, inputs.dy));
  });

  describe.each(DEVICES)('on %s', device => {
    test('fused ops', () => {
      expectGolden(golden, download(runLayer(inputs, { device })));
    });

    test('separate ops', () => {
      const fused = download(runLayer(inputs, { device }));
      const separate = runSeparateOps(inputs, { device });
      expectGolden(golden, separate);
      expectSame(separate, fused);
    });

    test('recompute', () => {
      expectGolden(golden, download(runLayer(inputs, { device, save: 'recompute' })));
    });

    test.each(DTYPES)('by the rule of verify in %s', async dtype => {
      const comparisons = await verifyCase(await readGoldenFile(goldenPath(name)), { device, dtype });
      expect(comparisons.filter(({ holds }) => !holds)).toEqual([]);
    });
  });
});

const SEPARABLE = [...LAYERS, ...LAYOUTS, ...SHARED].filter(
  ({ given, separate, lora }) => !given && !separate && !lora,
);
const ROUTED = [...ROUTERS, ...PROJECTIONS].map(router => ({ router }));
describe.each(DEVICES)('on %s', device => {
  test.each([...SEPARABLE, ...ROUTED])('fused and separate ops: %o', layer => {
    const sizes = { tokens: 42, hidden: 19, intermediate: 13, experts: 6, topK: 2, bias: true };
    const inputs = layerInputs({ ...sizes, ...layer }, 'float32');
    const fused = download(runLayer(inputs, { device }));
    expectSame(runSeparateOps(inputs, { device }), fused);
    expectSame(runSeparateOps(inputs, { device, padded: true }), fused);
  });
});
