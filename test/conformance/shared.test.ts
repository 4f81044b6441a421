// Shared experts, one and several, each weighed by a sigmoid gate, a learnt weight, both or nothing.

import { describe, expect, test } from 'vitest';
import { expectSameBytes } from '../support/compare.ts';
import { expectAdded, expectRuns } from '../support/expect-layer.ts';
import { type LayerCase, type LayerInputs, layerInputs, runLayer } from '../support/layer.ts';
import { layerTitle, SHARED } from '../support/layers.ts';
import { TARGETS } from '../support/targets.ts';
import { download, downloadBytes } from '../support/tensors.ts';

const SIZES: LayerCase = { tokens: 41, hidden: 19, intermediate: 13, experts: 6, topK: 2, bias: true };
const GATED = { intermediate: 7, count: 3, gate: 'sigmoid' } as const;

/** The same memory, matrices of one shared expert with a dimension for the expert. */
function asSeveral(inputs: LayerInputs): LayerInputs {
  const parameters = { ...inputs.parameters };
  for (const name of ['shared.gate', 'shared.up', 'shared.down']) {
    const parameter = parameters[name];
    if (parameter) parameters[name] = { ...parameter, shape: [1, ...parameter.shape] };
  }
  return { ...inputs, parameters };
}

describe.each(TARGETS)('shared experts on $device in $dtype', ({ dtype, device }) => {
  const check = (layer: LayerCase) => expectRuns('layer', layerInputs(layer, dtype), device);

  test.each(SHARED.map(layer => ({ layer, title: layerTitle(layer) })))('$title', ({ layer }) => {
    check({ ...SIZES, ...layer });
  });

  // Of so few tokens, 16 bits are held to what they are among others: see determinism.test.ts.
  test.each(dtype === 'float32' ? [0, 1, 5] : [0])('%d tokens', tokens => {
    for (const layer of SHARED) check({ ...SIZES, ...layer, tokens });
  });

  test.each([1, 2, 3, 4, 7, 8, 9, 16, 17])('%d shared experts', count => {
    for (const gate of [undefined, 'sigmoid', 'weights'] as const) {
      check({ ...SIZES, tokens: 23, shared: { intermediate: 5, count, gate } });
    }
  });

  test('wide and narrow ones', () => {
    for (const intermediate of [1, 64, 131]) {
      check({ ...SIZES, tokens: 70, shared: { ...GATED, intermediate }, sharedWeights: true });
    }
  });

  test('gates and weights in float32', () => {
    check({ ...SIZES, shared: GATED, sharedWeights: true, wide: true });
  });

  test('one in tensors of one dimension more has the bits of one', () => {
    for (const gate of [undefined, 'sigmoid', 'weights'] as const) {
      const inputs = layerInputs({ ...SIZES, shared: { intermediate: 7, gate } }, dtype);
      const one = downloadBytes(runLayer(inputs, { device }));
      expectSameBytes('one of several', downloadBytes(runLayer(asSeveral(inputs), { device })), one);
    }
  });

  test.each([...new Set([dtype, 'float32'] as const)])('gradients added to %s buffers', stored => {
    for (const count of [undefined, 3]) {
      const shared = { ...GATED, count };
      expectAdded(layerInputs({ ...SIZES, shared, sharedWeights: true }, dtype), stored, device);
      expectAdded(layerInputs({ ...SIZES, shared: { intermediate: 5, count } }, dtype), stored, device);
    }
  });

  test.each([undefined, 'sigmoid', 'weights'] as const)('NaN reaches its own token alone: gate %s', gate => {
    const inputs = layerInputs({ ...SIZES, shared: { ...GATED, gate } }, dtype);
    inputs.x[4 * SIZES.hidden + 3] = NaN;
    const { y } = download(runLayer(inputs, { device }));
    for (let t = 0; t < SIZES.tokens; t++) {
      const row = y.subarray(t * SIZES.hidden, (t + 1) * SIZES.hidden);
      expect(row.every(Number.isNaN), `token ${t} all NaN`).toBe(t === 4);
      expect(row.some(Number.isNaN), `token ${t} any NaN`).toBe(t === 4);
    }
  });
});
