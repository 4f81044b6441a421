// MoELayer is the ops: the same bits, forward and backward, whatever it is put together from, and nothing left behind.

import { describe, expect, test } from 'vitest';
import { MoELayer, type MoELayerConfig, memory, type NamedTensors, synchronize } from '../../src/index.ts';
import { expectClose, expectSameBytes } from '../support/compare.ts';
import { decode } from '../support/dtypes.ts';
import {
  isFrozen,
  type LayerCase,
  type LayerInputs,
  type LoraRanks,
  layerInputs,
  runLayer,
} from '../support/layer.ts';
import { LAYERS, LAYOUTS, type LayerVariant, layerTitle, SHARED } from '../support/layers.ts';
import { seeded } from '../support/random.ts';
import { TARGETS } from '../support/targets.ts';
import { download, downloadBytes, upload } from '../support/tensors.ts';

const SIZES: LayerCase = { tokens: 23, hidden: 19, intermediate: 13, experts: 6, topK: 2, bias: true };
const PAIRS: readonly LayerVariant[] = [
  { lora: { gate_up: 3, down: 3 }, loraScale: 0.5 },
  { lora: { gate_up: 4 }, gateUpLayout: 'interleaved', transposed: true },
  { lora: { gate: 2, up: 2 }, separate: true, loraScale: -1.5 },
  { lora: { up: 5, down: 5 }, activation: 'gelu' },
  { lora: { down: 17 }, transposed: true },
];
/** What a layer is configured to be: it routes, and its shared experts have gates or weights. */
const ROUTED = [...LAYERS, ...LAYOUTS, ...PAIRS, ...SHARED]
  .filter(({ given, sharedWeights }) => !given && !sharedWeights)
  .map(layer => ({ layer, title: layerTitle(layer) }));

function configOf({ config }: LayerInputs): MoELayerConfig {
  const { tokens, name, separate, lora, loraScale, ...rest } = config as LayerInputs['config'] & LayerCase;
  return {
    ...rest,
    ...(lora && { lora: loraConfig(lora, loraScale) }),
    router: { ...config.router, bias: true },
  };
}

/** Low-rank pairs that are all of one rank, as a configuration says it. */
function loraConfig({ down, ...ups }: LoraRanks, scale = 1): MoELayerConfig['lora'] {
  const on = [
    ...(Object.keys(ups).length > 0 ? (['gateUp'] as const) : []),
    ...(down ? (['down'] as const) : []),
  ];
  const rank = down ?? Object.values(ups)[0]!;
  return { rank, alpha: scale * rank, on };
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
    const trained = Object.entries(layer.parameters).filter(([name]) => !isFrozen(name, layer.parameters));
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

  test('low-rank pairs start without effect: A drawn, B zero', () => {
    const lora = { rank: 4, alpha: 8, on: ['gateUp', 'down'] as const };
    const config = { ...{ hidden: 19, intermediate: 13, experts: 6, topK: 2 }, dtype, device };
    using layer = new MoELayer({ ...config, lora }, { seed: 2 });
    const shapes = Object.entries(layer.parameters).map(([name, { shape }]) => [name, shape]);
    expect(Object.fromEntries(shapes)).toEqual({
      'router.weight': [6, 19],
      'experts.gate_up': [6, 26, 19],
      'experts.gate_up.lora_a': [6, 4, 19],
      'experts.gate_up.lora_b': [6, 26, 4],
      'experts.down': [6, 19, 13],
      'experts.down.lora_a': [6, 4, 13],
      'experts.down.lora_b': [6, 19, 4],
    });
    for (const [name, parameter] of Object.entries(layer.parameters)) {
      const values = decode(dtype, parameter.dataSync());
      if (name.endsWith('.lora_b')) expect(values).toEqual(new Float64Array(values.length));
      else {
        const largest = Math.max(...values.map(Math.abs)) * Math.sqrt(parameter.shape.at(-1)!);
        expect(largest, name).toBeGreaterThan(0.9);
        expect(largest, name).toBeLessThanOrEqual(1.01);
      }
    }
    const weights: NamedTensors = {};
    for (const [name, { shape, dtype: stored }] of Object.entries(layer.parameters)) {
      if (name.includes('.lora_')) continue;
      weights[name] = upload(decode(stored, layer.parameters[name]!.dataSync()), shape, stored, device);
    }
    using base = new MoELayer(config, { weights });
    const x = upload(seeded(3).normals(7 * 19), [7, 19], dtype, device);
    expectSameBytes('y', downloadBytes(layer.forward(x)), downloadBytes(base.forward(x)));
  });

  test('learnt weights of shared experts start as ones', () => {
    const config = { ...{ hidden: 8, intermediate: 4, experts: 4, topK: 2 }, dtype, device };
    const shared = { intermediate: 4, gate: 'weights' as const };
    for (const count of [undefined, 3]) {
      const given = { ...config, shared: { ...shared, count } };
      using layer = new MoELayer(given);
      const weights = layer.parameters['shared.weights']!;
      expect([...decode(dtype, weights.dataSync())]).toEqual(Array(count ?? 1).fill(1));
      expect(layer.parameters['shared.up']!.shape).toEqual(count ? [count, 4, 8] : [4, 8]);
      expect(layer.parameters['shared.router']).toBeUndefined();
    }
  });
});
