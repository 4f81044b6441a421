// MoELayer is the ops: the same bits, forward and backward, whatever it is put together from, and nothing left behind.

import { describe, expect, test } from 'vitest';
import { MoELayer, type MoELayerConfig, memory, type NamedTensors, synchronize } from '../../src/index.ts';
import { expectClose, expectSameBytes } from '../support/compare.ts';
import { type LayerCase, type LayerInputs, layerInputs, runLayer } from '../support/layer.ts';
import { LAYERS, layerTitle } from '../support/layers.ts';
import { seeded } from '../support/random.ts';
import { TARGETS } from '../support/targets.ts';
import { download, downloadBytes, upload } from '../support/tensors.ts';

const SIZES: LayerCase = { tokens: 23, hidden: 19, intermediate: 13, experts: 6, topK: 2, bias: true };
const ROUTED = LAYERS.filter(({ given }) => !given).map(layer => ({ layer, title: layerTitle(layer) }));

function configOf({ config }: LayerInputs): MoELayerConfig {
  const { tokens, name, separate, ...rest } = config as LayerInputs['config'] & LayerCase;
  return { ...rest, router: { ...config.router, bias: true } };
}

describe.each(TARGETS)('MoELayer on $device in $dtype', ({ dtype, device }) => {
  test.each(ROUTED)('$title', ({ layer: options }) => {
    const inputs = layerInputs({ ...SIZES, ...options }, dtype);
    const { x: xValues, dy: dyValues, dLogits: dLogitsValues, parameters } = inputs;
    const expected = downloadBytes(runLayer(inputs, { device }));
    const before = memory().tensors;
    const weights: NamedTensors = {};
    for (const [name, { values, shape, dtype: stored }] of Object.entries(parameters)) {
      weights[name] = upload(values, shape, stored, device);
    }
    const layer = new MoELayer({ ...configOf(inputs), dtype, device }, { weights });
    const shape = [SIZES.tokens, SIZES.hidden];
    const x = upload(xValues, shape, dtype, device);
    const dy = upload(dyValues, shape, dtype, device);
    const logits = parameters['router.weight']!.shape[0]!;
    const dLogits = upload(dLogitsValues!, [SIZES.tokens, logits], 'float32', device);

    expectSameBytes('inference', downloadBytes(layer.forward(x)), expected.y);
    for (const recompute of [false, true]) {
      const { y, routing, saved } = layer.forwardTrain(x, { recompute });
      const result = layer.backward(saved, dy, { dLogits });
      const { indices, weights } = routing;
      const { y: forward, ...routed } = downloadBytes({ y, indices, weights });
      saved.dispose();
      expectSameBytes('y', forward, expected.y);
      expectSameBytes('routing', routed, { indices: expected.indices, weights: expected.weights });
      const { dx, gradients } = downloadBytes(result);
      expectSameBytes('dx', dx, expected.dx);
      expect(Object.keys(gradients).sort()).toEqual(Object.keys(expected.gradients).sort());
      expectSameBytes('gradients', gradients, expected.gradients);
    }
    for (const input of [x, dy, dLogits]) input.dispose();
    layer.dispose();
    synchronize();
    expect(memory().tensors, 'live tensors').toBe(before);
  });

  test.each(ROUTED)('gradients added by name: $title', ({ layer: options }) => {
    const inputs = layerInputs({ ...SIZES, ...options }, dtype);
    using layer = new MoELayer({ ...configOf(inputs), dtype, device }, { seed: 4 });
    const random = seeded(5);
    const shape = [SIZES.tokens, SIZES.hidden];
    const x = upload(inputs.x, shape, dtype, device);
    const dy = upload(inputs.dy, shape, dtype, device);
    const trained = Object.entries(layer.parameters).filter(([name]) => name !== 'router.selection_bias');
    const { y, saved } = layer.forwardTrain(x);
    const backwardInto = (values: (size: number) => Float32Array) => {
      const held = trained.map(([name, { size }]) => [name, values(size)] as const);
      const accumulateInto: NamedTensors = {};
      for (const [name, start] of held) {
        accumulateInto[name] = upload(start, layer.parameters[name]!.shape, 'float32', device);
      }
      const { dx, gradients } = layer.backward(saved, dy, { accumulateInto });
      for (const [name, into] of Object.entries(accumulateInto)) expect(gradients[name]).toBe(into);
      dx.dispose();
      return { held: Object.fromEntries(held), gradients: download(gradients) };
    };
    const alone = backwardInto(size => new Float32Array(size));
    const added = backwardInto(size => random.normals(size));
    for (const [name, gradient] of Object.entries(alone.gradients)) {
      const sums = gradient.map((value, i) => value + added.held[name]![i]!);
      expectClose(name, added.gradients[name]!, sums, 1e-6);
    }
    y.dispose();
    saved.dispose();
  });
});
