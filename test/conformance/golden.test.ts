// Layers that others wrote: forward and backward through the fused ops, through the separate ones, and the reference.

import { describe, expect, test } from 'vitest';
import {
  groupedMatmul,
  groupedMatmulDgrad,
  groupedMatmulWgrad,
  permute,
  permuteBackward,
  route,
  routeBackward,
  type Tensor,
  unpermute,
  unpermuteBackward,
} from '../../src/index.ts';
import { referenceMoe } from '../reference/moe.ts';
import { expectClose } from '../support/compare.ts';
import { GOLDEN_CASES, type GoldenCase, readGolden } from '../support/golden.ts';
import { type LayerInputs, runLayer, uploadLayer } from '../support/layer.ts';
import { DEVICES } from '../support/targets.ts';
import { download, free, type Replaced, upload } from '../support/tensors.ts';

const FORWARD_BOUND = 1e-5;
const GRADIENT_BOUND = 1e-4;

interface Outcome {
  y: ArrayLike<number>;
  indices: ArrayLike<number>;
  weights: ArrayLike<number>;
  dx: ArrayLike<number>;
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
    expectClose(name, actual.gradients[name]!, tensors[`d.${name}`]!.values, GRADIENT_BOUND);
  }
}

const parameterNames = ({ tensors }: GoldenCase) =>
  Object.keys(tensors).filter(name => /^(router|experts)\./.test(name));

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
    config,
    parameters: Object.fromEntries(parameters),
    x: x!.values,
    dy: dy!.values,
  };
}

/** The layer as a framework would wire it from the stateless ops. */
function runSeparateOps(inputs: LayerInputs): Replaced<Outcome & { dWeights: Tensor }, Float64Array> {
  const { config } = inputs;
  const { activation, experts, tokens, hidden } = config;
  const { x, router, experts: weights } = uploadLayer(inputs);
  const { gateUp, down } = weights as { gateUp: Tensor; down: Tensor };
  const dy = upload(inputs.dy, [tokens, hidden], 'float32');
  const routing = route({ x, ...router! });
  const { rows, dispatch: permutation } = permute({ x, indices: routing.indices, experts });
  const { offsets } = permutation;
  const up = groupedMatmul({ rows, weight: gateUp, offsets, activation, savePreActivation: true });
  const outputs = groupedMatmul({ rows: up.out, weight: down, offsets }).out;
  const y = unpermute({ rows: outputs, dispatch: permutation, weights: routing.weights });

  const combined = unpermuteBackward({ dy, dispatch: permutation, rows: outputs, weights: routing.weights });
  const dDown = groupedMatmulWgrad({ dOut: combined.dRows, rows: up.out, offsets }).dWeight;
  const preActivation = up.preActivation!;
  const dPre = groupedMatmulDgrad({ dOut: combined.dRows, weight: down, offsets, activation, preActivation });
  const dGateUp = groupedMatmulWgrad({ dOut: dPre, rows, offsets }).dWeight;
  const dRows = groupedMatmulDgrad({ dOut: dPre, weight: gateUp, offsets });
  const dx = permuteBackward({ dRows, dispatch: permutation });
  const { dWeights } = combined;
  const routed = routeBackward({ routing, dWeights, x, weight: router!.weight, accumulateInto: { dx } });
  free([
    rows,
    up,
    outputs,
    combined.dRows,
    dPre,
    dRows,
    permutation,
    routing.logits,
    routing.counts,
    routed.dLogits,
  ]);
  const gradients = { 'router.weight': routed.dWeight!, 'experts.gate_up': dGateUp, 'experts.down': dDown };
  const { indices } = routing;
  return download({ y, indices, weights: routing.weights, dx, dWeights: dWeights!, gradients });
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

  test.each(DEVICES)('fused ops on %s, and the separate ones', device => {
    const fused = download(runLayer(inputs, { device }));
    expectGolden(golden, fused);
    const separate: Outcome & { dWeights: Float64Array } = runSeparateOps(inputs);
    expectGolden(golden, separate);
    expect(separate.indices).toEqual(fused.indices);
    expectClose('y, fused and separate', separate.y, fused.y, 1e-6);
    expectClose('dx, fused and separate', separate.dx, fused.dx, 2e-6);
    expectClose('dWeights, fused and separate', separate.dWeights, fused.dWeights, 2e-6);
    for (const [key, gradient] of Object.entries(fused.gradients)) {
      expectClose(`d ${key}, fused and separate`, separate.gradients[key]!, gradient, 2e-6);
    }
  });

  test('recompute', () => {
    expectGolden(golden, download(runLayer(inputs, { save: 'recompute' })));
  });
});
