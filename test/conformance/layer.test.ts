// The fused layer, forward and backward, against the reference: odd shapes, every kind of load, every option.

import { describe, expect, test } from 'vitest';
import { ACTIVATIONS } from '../../src/index.ts';
import { activationTitle, CLAMPS } from '../support/activations.ts';
import { expectAdded, expectLayer, expectRuns } from '../support/expect-layer.ts';
import { type LayerCase, layerInputs, runLayer } from '../support/layer.ts';
import { LAYERS, layerTitle } from '../support/layers.ts';
import { PROJECTIONS, ROUTERS, routerTitle } from '../support/routers.ts';
import { TARGETS } from '../support/targets.ts';
import { download } from '../support/tensors.ts';

const SMALL = { tokens: 17, hidden: 19, intermediate: 13, experts: 5, topK: 2 };
/** Enough tokens that capacities overflow and no single row makes up most of a gradient. */
const OPTIONS = { ...SMALL, tokens: 42, experts: 6, bias: true };

const LOADS: LayerCase[] = [
  { ...SMALL, name: 'odd sizes' },
  { ...SMALL, name: 'no token', tokens: 0 },
  { ...SMALL, name: 'one token', tokens: 1 },
  { name: 'one of everything', tokens: 1, hidden: 1, intermediate: 1, experts: 1, topK: 1 },
  { name: 'every expert', tokens: 23, hidden: 16, intermediate: 17, experts: 4, topK: 4, bias: true },
  {
    name: 'one expert for 200 tokens',
    tokens: 200,
    hidden: 33,
    intermediate: 31,
    experts: 1,
    topK: 1,
    bias: true,
  },
  { ...SMALL, name: 'all tokens on one expert', tokens: 50, topK: 1, given: () => 3 },
  { ...SMALL, name: 'one hot expert', tokens: 90, experts: 12, given: (t, k) => (k ? 7 : t % 6), bias: true },
  { ...SMALL, name: 'empty experts', tokens: 40, experts: 30, given: (t, k) => 10 + 2 * ((t + k) % 4) },
  { ...SMALL, name: 'more experts than rows', tokens: 3, experts: 40 },
  { name: 'wide rows', tokens: 9, hidden: 300, intermediate: 270, experts: 3, topK: 2 },
  {
    name: 'long inner dimension up',
    tokens: 7,
    hidden: 1037,
    intermediate: 17,
    experts: 2,
    topK: 1,
    bias: true,
  },
  {
    name: 'long inner dimension down',
    tokens: 7,
    hidden: 21,
    intermediate: 1029,
    experts: 2,
    topK: 2,
    activation: 'gelu',
  },
  { name: 'whole tiles', tokens: 64, hidden: 64, intermediate: 64, experts: 4, topK: 2 },
  ...[4, 6, 8, 12, 14, 16, 28, 32, 48].map(rows => ({
    name: `${rows - 1}, ${rows} and ${rows + 1} rows`,
    ...{ tokens: 3 * rows, hidden: rows + 1, intermediate: rows - 1, experts: 3, topK: 1 },
    given: (t: number) => (t < rows - 1 ? 0 : t < 2 * rows - 1 ? 1 : 2),
  })),
];

const FORMS = [...ACTIVATIONS.map(activation => ({ activation })), ...CLAMPS].flatMap(form =>
  [false, true].map(bias => ({ form, bias, title: `${activationTitle(form)}${bias ? ' with biases' : ''}` })),
);

describe.each(TARGETS)('layer on $device in $dtype', ({ dtype, device }) => {
  const check = (layer: LayerCase) => {
    const inputs = layerInputs(layer, dtype);
    expectLayer(layer.name ?? 'layer', inputs, download(runLayer(inputs, { device })));
  };

  test.each(LOADS)('$name', check);

  test.each(FORMS)('$title', ({ form, bias }) => {
    expectRuns(form.activation, layerInputs({ ...SMALL, ...form, bias }, dtype), device);
  });

  const routers = [...ROUTERS, ...PROJECTIONS].map(router => ({ router, title: routerTitle(router) }));
  test.each(routers)('router: $title', ({ router }) => check({ ...OPTIONS, router }));

  test.each(LAYERS.map(layer => ({ layer, title: layerTitle(layer) })))('$title', ({ layer }) => {
    expectRuns('layer', layerInputs({ ...OPTIONS, ...layer }, dtype), device);
  });

  // That one token alone has the output that it has among others is tested in determinism.test.ts, to the bit.
  test.each([0, 5])('every option with %d tokens', tokens => {
    for (const layer of LAYERS) check({ ...OPTIONS, ...layer, tokens });
  });

  test('no expert has room for more than one token, and none but identity experts for most', () => {
    check({ ...SMALL, experts: 2, router: { capacity: { tokensPerExpert: 1 } }, bias: true });
    check({ ...SMALL, experts: 1, identityExperts: 9, router: { capacity: { tokensPerExpert: 1 } } });
  });

  test('a shared expert wider and narrower than the routed ones', () => {
    for (const intermediate of [1, 64, 131]) {
      check({ ...SMALL, tokens: 70, shared: { intermediate, gate: 'sigmoid' } });
    }
  });

  test('float32 router and biases', () => check({ ...SMALL, tokens: 31, bias: true, wide: true }));
  test('separate gate and up, long', () => {
    check({
      name: 'separate',
      tokens: 40,
      hidden: 130,
      intermediate: 129,
      experts: 2,
      topK: 1,
      separate: true,
    });
  });

  test.each([...new Set([dtype, 'float32'] as const)])('gradients added to %s buffers', stored => {
    const layer: LayerCase = { ...SMALL, bias: true, shared: { intermediate: 8, gate: 'sigmoid' } };
    const inputs = layerInputs({ ...layer, router: { expertScale: true, selectionBias: true } }, dtype);
    expectAdded(inputs, stored, device);
  });

  test('no dLogits, and a forward pass that keeps nothing', () => {
    const inputs = layerInputs(SMALL, dtype);
    const without = { ...inputs, dLogits: undefined };
    expectLayer('layer', without, download(runLayer(without, { device })));
  });

  test.each([
    { given: (t: number, k: number) => (t + k) % 5 },
    { applyWeightTo: 'input', identityExperts: 2, shared: { intermediate: 5, gate: 'sigmoid' } } as const,
  ])('NaN in one token reaches that token alone: %o', layer => {
    const inputs = layerInputs({ ...SMALL, ...layer }, dtype);
    inputs.x[4 * SMALL.hidden + 3] = NaN;
    const { y } = download(runLayer(inputs, { device }));
    for (let t = 0; t < SMALL.tokens; t++) {
      const row = y.subarray(t * SMALL.hidden, (t + 1) * SMALL.hidden);
      expect(row.every(Number.isNaN), `token ${t} all NaN`).toBe(t === 4);
      expect(row.some(Number.isNaN), `token ${t} any NaN`).toBe(t === 4);
    }
  });
});
