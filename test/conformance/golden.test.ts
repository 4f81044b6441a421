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
    config,
    parameters: Object.fromEntries(parameters),
    x: x!.values,
    dy: dy!.values,
  };
}

/** The layer, if it has no shared expert and weighs outputs, as a framework would wire it from the stateless ops. */
function runSeparateOps(inputs: LayerInputs): Replaced<Outcome & { dWeights: Tensor }, Float64Array> {
  const { config, parameters } = inputs;
  const { activation, activationLimit, activationAlpha, activationUpShift, experts, tokens, hidden } = config;
  const form = { activation, activationLimit, activationAlpha, activationUpShift };
  const { x, router, experts: weights } = uploadLayer(inputs);
  const [up, upBias] = [weights.gateUp ?? weights.up!, weights.gateUpBias ?? weights.upBias];
  const { down, downBias } = weights;
  const dy = upload(inputs.dy, [tokens, hidden], 'float32');
  const routing = route({ x, ...router! });
  const { indices, dropped } = routing;
  const { rows, dispatch: permutation } = permute({ x, indices, dropped, experts });
  const { offsets } = permutation;
  const upArgs = { rows, weight: up, offsets, bias: upBias, ...form, savePreActivation: true };
  const { out: activated, preActivation } = groupedMatmul(upArgs);
  const outputs = groupedMatmul({ rows: activated, weight: down, offsets, bias: downBias }).out;
  const y = unpermute({ rows: outputs, dispatch: permutation, weights: routing.weights });

  const combined = unpermuteBackward({ dy, dispatch: permutation, rows: outputs, weights: routing.weights });
  const dOut = combined.dRows;
  const dDown = groupedMatmulWgrad({ dOut, rows: activated, offsets, bias: downBias !== undefined });
  const dPre = groupedMatmulDgrad({ dOut, weight: down, offsets, ...form, preActivation });
  const dUp = groupedMatmulWgrad({ dOut: dPre, rows, offsets, bias: upBias !== undefined });
  const dRows = groupedMatmulDgrad({ dOut: dPre, weight: up, offsets });
  const dx = permuteBackward({ dRows, dispatch: permutation });
  const dWeights = combined.dWeights!;
  const { weight, bias } = router!;
  const routed = routeBackward({ routing, dWeights, x, weight, bias, accumulateInto: { dx } });
  free([rows, activated, preActivation, outputs, dOut, dPre, dRows, permutation, routed.dLogits]);
  free([routing.logits, routing.counts, dropped]);
  const upName = parameters['experts.up'] ? 'experts.up' : 'experts.gate_up';
  const gradients = {
    ...{ 'router.weight': routed.dWeight!, 'router.bias': routed.dBias },
    ...{ [upName]: dUp.dWeight, [`${upName}_bias`]: dUp.dBias },
    ...{ 'experts.down': dDown.dWeight, 'experts.down_bias': dDown.dBias },
  };
  const given = Object.fromEntries(Object.entries(gradients).filter(([name]) => parameters[name]));
  return download({
    y,
    indices,
    weights: routing.weights,
    dx,
    dWeights,
    gradients: given as { [name: string]: Tensor },
  });
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

  test.each(DEVICES)('fused ops on %s', device => {
    expectGolden(golden, download(runLayer(inputs, { device })));
  });

  test.skipIf(golden.config.shared)('separate ops (none adds a shared expert to the others)', () => {
    const fused = download(runLayer(inputs));
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
