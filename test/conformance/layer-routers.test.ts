// The fused layer with every router where it is easily forgotten: few tokens, weights on the input, identity and shared experts,
// a wider router, gradients that are added, sizes around the tiles of the router's products.

import { describe, expect, test } from 'vitest';
import { expectAdded, expectLayer } from '../support/expect-layer.ts';
import { isFrozen, type LayerCase, layerInputs, runLayer } from '../support/layer.ts';
import { fits, PROJECTIONS, ROUTERS, type RouterVariant, routerTitle } from '../support/routers.ts';
import { DEVICES, TARGETS, type Target } from '../support/targets.ts';
import { download } from '../support/tensors.ts';

const SIZES: LayerCase = { tokens: 42, hidden: 19, intermediate: 13, experts: 6, topK: 2, bias: true };
const ALL = [...ROUTERS, ...PROJECTIONS].map(router => ({ router, title: routerTitle(router) }));
/** Everything that x is multiplied with. */
const MATRICES: RouterVariant = {
  ...{ noise: { kind: 'noisyTopK', seed: 4 }, step: 7, loraRank: 5, expertScale: true, normalize: true },
};

const check = (layer: LayerCase, { dtype, device }: Target) => {
  const inputs = layerInputs(layer, dtype);
  expectLayer(layer.name ?? 'layer', inputs, download(runLayer(inputs, { device })));
};

// In float32 alone: of so few numbers as some of these have, one that falls badly may be most of a 16-bit error.
describe.each(DEVICES)('layer by every router on %s', device => {
  test.each(ALL)('$title', ({ router }) => {
    const checkAs = (name: string, change: Partial<LayerCase>) =>
      check({ ...SIZES, name, router, ...change }, { dtype: 'float32', device });
    for (const tokens of [0, 1, 3]) checkAs(`${tokens} tokens`, { tokens });
    checkAs('weights on the input', { applyWeightTo: 'input' });
    checkAs('a shared expert', { shared: { intermediate: 5, gate: 'sigmoid' } });
    if (fits(router, { experts: 6, topK: 6 })) checkAs('every expert', { topK: 6 });
    if (!fits(router, { experts: 6, topK: 2, identityExperts: 3 })) return;
    checkAs('identity experts', { identityExperts: 3 });
    checkAs('both', { identityExperts: 3, applyWeightTo: 'input' });
  });
});

describe.each(TARGETS)("the router's matrices on $device in $dtype", ({ dtype, device }) => {
  const here = { dtype, device };

  test.each([1, 2, 7, 16, 33, 64, 257, 1027])('H = %d', hidden => {
    check({ ...SIZES, tokens: 9, hidden, router: MATRICES }, here);
    check({ ...SIZES, tokens: 9, hidden, router: { noise: { kind: 'jitter', eps: 0.5 }, step: 0 } }, here);
  });
  test.each([1, 2, 15, 16, 17, 65])('E = %d', experts => {
    check({ ...SIZES, experts, topK: 1, router: { ...MATRICES, normalize: false } }, here);
  });
  test.each([1, 2, 8, 16, 17, 64])('rank %d', loraRank => check({ ...SIZES, router: { loraRank } }, here));
  test('a scaled pair', () => check({ ...SIZES, router: { loraRank: 3 }, loraScale: -1.75 }, here));
  test('a float32 router', () => check({ ...SIZES, wide: true, router: MATRICES }, here));

  test.each([...new Set([dtype, 'float32'] as const)])('gradients added to %s buffers', stored => {
    const inputs = layerInputs({ ...SIZES, router: MATRICES }, dtype);
    const { parameters } = inputs;
    const trained = Object.keys(parameters).filter(
      name => /^router/.test(name) && !isFrozen(name, parameters),
    );
    const names = ['router.expert_scale', 'router.lora_a', 'router.lora_b', 'router.noise_weight'];
    expect(trained.sort()).toEqual(names);
    expectAdded(inputs, stored, device);
  });
});
