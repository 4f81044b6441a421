// MoELayer with every router: the bits of the ops, forward and backward, and what its calls need.

import { describe, expect, test } from 'vitest';
import {
  MoELayer,
  type MoELayerConfig,
  memory,
  type NamedTensors,
  routerLoss,
  synchronize,
} from '../../src/index.ts';
import { expectSameBytes } from '../support/compare.ts';
import { type LayerCase, type LayerInputs, layerInputs, runLayer, uploadCall } from '../support/layer.ts';
import { seeded } from '../support/random.ts';
import { optionsOf } from '../support/router-call.ts';
import { PROJECTIONS, ROUTERS, type RouterVariant, routerTitle } from '../support/routers.ts';
import { TARGETS } from '../support/targets.ts';
import { download, downloadBytes, free, upload } from '../support/tensors.ts';

const SIZES: LayerCase = { tokens: 24, hidden: 19, intermediate: 13, experts: 6, topK: 2, bias: true };
const OWNED = [...ROUTERS, ...PROJECTIONS].map(router => ({ router, title: routerTitle(router) }));

function configOf(router: RouterVariant): MoELayerConfig {
  const { selectionBias = false, expertScale = false, hash = false, loraRank: rank } = router;
  const { topK, tokens: _, lora: __, ...sizes } = SIZES;
  const flags = { bias: true, selectionBias, expertScale, hash };
  const lora = rank === undefined ? {} : { lora: { rank, on: ['router'] } as const };
  const layer = { ...sizes, ...lora, router: { ...optionsOf(router), ...flags } };
  return router.expertChoice ? layer : { ...layer, topK };
}

function ownedLayer(inputs: LayerInputs, config: MoELayerConfig): MoELayer {
  const weights: NamedTensors = {};
  for (const [name, { values, shape, dtype }] of Object.entries(inputs.parameters)) {
    weights[name] = upload(values, shape, dtype, config.device);
  }
  return new MoELayer(config, { weights });
}

describe.each(TARGETS)('MoELayer on $device in $dtype', ({ dtype, device }) => {
  test.each(OWNED)('$title', ({ router }) => {
    const inputs = layerInputs({ ...SIZES, router }, dtype);
    const { config, call } = inputs;
    const expected = downloadBytes(runLayer(inputs, { device }));
    const calm = downloadBytes(
      runLayer({ ...quiet(inputs), call: { ...call, step: undefined } }, { device }),
    );
    const before = memory().tensors;
    const layer = ownedLayer(inputs, { ...configOf(router), dtype, device });
    const shape = [config.tokens, config.hidden];
    const [x, dy] = [inputs.x, inputs.dy].map(values => upload(values, shape, dtype, device)) as [
      ReturnType<typeof upload>,
      ReturnType<typeof upload>,
    ];
    const ofLogits = (values: Float32Array | undefined) =>
      values && upload(values, [config.tokens, config.experts], 'float32', device);
    const extra = { dLogits: ofLogits(inputs.dLogits), dNoiseLogits: ofLogits(inputs.dNoiseLogits) };
    const { step, ...said } = uploadCall(call, config.tokens, config.topK, device);

    expectSameBytes('inference', downloadBytes(layer.forward(x, said)), calm.y);
    for (const recompute of [false, true]) {
      const { y, routing, saved } = layer.forwardTrain(x, { recompute, step, ...said });
      const result = layer.backward(saved, dy, extra);
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
    for (const input of [x, dy, extra.dLogits, extra.dNoiseLogits, said.mask, said.indices]) input?.dispose();
    layer.dispose();
    synchronize();
    expect(memory().tensors, 'live tensors').toBe(before);
  });

  test('noise starts from nothing, and its weight learns from noise and load alone', () => {
    const router: RouterVariant = { noise: { kind: 'noisyTopK', anneal: { steps: 10 } } };
    using layer = new MoELayer({ ...configOf(router), dtype, device }, { seed: 3 });
    const noiseWeight = layer.parameters['router.noise_weight']!;
    expect(noiseWeight.shape).toEqual([6, 19]);
    expect([...noiseWeight.dataSync()].every(bits => bits === 0)).toBe(true);
    const inputs = layerInputs({ ...SIZES, router }, dtype);
    const shape = [SIZES.tokens, SIZES.hidden];
    const [x, dy] = [upload(inputs.x, shape, dtype, device), upload(inputs.dy, shape, dtype, device)];
    const gradientAt = (step: number | undefined, load = 0) => {
      const { y, routing, saved } = layer.forwardTrain(x, { step });
      const losses = load > 0 ? routerLoss({ routing, load }) : undefined;
      const { dLogits, dNoiseLogits } = losses ?? {};
      const { dx, gradients } = layer.backward(saved, dy, { dLogits, dNoiseLogits });
      saved.dispose();
      free([y, dx, losses]);
      return download(gradients)['router.noise_weight']!;
    };
    const size = (of: Float64Array) => Math.hypot(...of);
    expect(size(gradientAt(2))).toBeGreaterThan(0.01);
    expect(gradientAt(2, 5)).not.toEqual(gradientAt(2));
    for (const step of [undefined, 10, 11]) expect(gradientAt(step)).toEqual(new Float64Array(6 * 19));
    const { y, saved } = layer.forwardTrain(x);
    const before = seeded(2).normals(6 * 19);
    const into = upload(before, [6, 19], 'float32', device);
    const { dx, gradients } = layer.backward(saved, dy, { accumulateInto: { 'router.noise_weight': into } });
    expect(gradients['router.noise_weight']).toBe(into);
    expect(into.dataSync()).toEqual(before);
    saved.dispose();
    free([y, dx, gradients]);
  });
});

describe.each(TARGETS)('a low-rank pair of the router on $device in $dtype', ({ dtype, device }) => {
  const lora = { rank: 4, alpha: 2, on: ['router'] } as const;

  test.each([
    [{}, ['router']],
    [{ gate_up: 4, down: 4 }, ['router', 'gateUp', 'down']],
  ] as const)('times alpha / rank, beside pairs of experts: %o', (ranks, on) => {
    const inputs = layerInputs({ ...SIZES, lora: ranks, router: { loraRank: 4 }, loraScale: 0.5 }, dtype);
    const expected = downloadBytes(runLayer(inputs, { device }));
    const layer = ownedLayer(inputs, { ...configOf({}), lora: { ...lora, on: [...on] }, dtype, device });
    const [x, dy] = [inputs.x, inputs.dy].map(values =>
      upload(values, [SIZES.tokens, SIZES.hidden], dtype, device),
    );
    const dLogits = upload(inputs.dLogits!, [SIZES.tokens, SIZES.experts], 'float32', device);
    const { y, saved } = layer.forwardTrain(x!);
    const { dx, gradients } = downloadBytes(layer.backward(saved, dy!, { dLogits }));
    saved.dispose();
    expectSameBytes('y', downloadBytes(y), expected.y);
    expectSameBytes('dx', dx, expected.dx);
    expect(Object.keys(gradients).sort()).toEqual(Object.keys(expected.gradients).sort());
    expectSameBytes('gradients', gradients, expected.gradients);
    layer.dispose();
  });

  test('starts as nothing: the layer without it, to the bit', () => {
    const { x: values } = layerInputs(SIZES, dtype);
    const x = upload(values, [SIZES.tokens, SIZES.hidden], dtype, device);
    using paired = new MoELayer({ ...configOf({}), lora, dtype, device }, { seed: 6 });
    const others = Object.entries(paired.parameters).filter(([name]) => !name.includes('.lora_'));
    const plain = new MoELayer({ ...configOf({}), dtype, device }, { weights: Object.fromEntries(others) });
    expectSameBytes('y', downloadBytes(paired.forward(x)), downloadBytes(plain.forward(x)));
  });
});

/** Without the gradients of noise logits that are not there. */
const quiet = ({ dNoiseLogits: _, ...inputs }: LayerInputs): LayerInputs => inputs;
