// Low-rank pairs on experts: beside every subset of the matrices in every layout, of every rank at which a tile ends, with
// everything else frozen.

import { describe, expect, test } from 'vitest';
import { moeBackward, moeForward } from '../../src/index.ts';
import { columnsPerOutput } from '../reference/activation.ts';
import { CLAMPS } from '../support/activations.ts';
import { expectSameBytes } from '../support/compare.ts';
import { expectAdded, expectLayer, expectRuns } from '../support/expect-layer.ts';
import {
  isFrozen,
  type LayerCase,
  type LayerInputs,
  layerInputs,
  runLayer,
  uploadLayer,
} from '../support/layer.ts';
import { LAYERS, LAYOUTS, type LayerVariant, LORAS, layerTitle, withPairs } from '../support/layers.ts';
import { TARGETS } from '../support/targets.ts';
import { download, downloadBytes, free, upload } from '../support/tensors.ts';

const SMALL: LayerCase = { tokens: 17, hidden: 19, intermediate: 13, experts: 5, topK: 2 };
const OPTIONS: LayerCase = { ...SMALL, tokens: 41, experts: 6, bias: true };

const RANKS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 129];
const BOTH = { gate_up: 8, down: 8 };

const LOADS: readonly LayerCase[] = [
  { ...SMALL, name: 'long inner dimension up', hidden: 1037, lora: { gate_up: 3, down: 4 } },
  { ...SMALL, name: 'long inner dimension down', intermediate: 1029, lora: { gate_up: 3, down: 4 } },
  { ...SMALL, name: 'wide rows', hidden: 300, intermediate: 270, lora: BOTH, bias: true },
  {
    ...SMALL,
    name: 'whole tiles',
    tokens: 64,
    hidden: 64,
    intermediate: 64,
    lora: { gate_up: 32, down: 64 },
  },
  { ...SMALL, name: 'one expert for 200 tokens', tokens: 200, experts: 1, topK: 1, lora: BOTH },
  { ...SMALL, name: 'one hot expert', tokens: 90, experts: 12, given: (t, k) => (k ? 7 : t % 6), lora: BOTH },
  {
    ...{ ...SMALL, name: 'empty experts', tokens: 40, experts: 30, lora: BOTH },
    given: (t, k) => 10 + 2 * ((t + k) % 4),
  },
  { ...SMALL, name: 'no token', tokens: 0, lora: BOTH, bias: true },
  { ...SMALL, name: 'one token', tokens: 1, lora: BOTH, bias: true },
  {
    ...{ name: 'one of everything', tokens: 1, hidden: 1, intermediate: 1, experts: 1, topK: 1 },
    lora: { gate_up: 1, down: 1 },
  },
  { ...SMALL, name: 'ranks above the dimensions', lora: { gate_up: 70, down: 90 } },
  { ...SMALL, name: 'float32 pairs, biases and router', lora: BOTH, wide: true, bias: true },
  { ...SMALL, name: 'a negative scale', lora: BOTH, loraScale: -2.5 },
  { ...SMALL, name: 'no scale', lora: BOTH },
  ...CLAMPS.map((form, i) => ({ ...SMALL, ...form, name: `clamps ${i}`, lora: BOTH, bias: true })),
];

const gated = ({ activation = 'swiglu' }: LayerVariant) => columnsPerOutput(activation) === 2;

/** The same problem, some of its parameters otherwise. */
function withValues(
  inputs: LayerInputs,
  change: (name: string, values: Float32Array) => Float32Array | undefined,
): LayerInputs {
  const parameters: LayerInputs['parameters'] = {};
  for (const [name, parameter] of Object.entries(inputs.parameters)) {
    const values = change(name, parameter.values);
    if (values) parameters[name] = { ...parameter, values };
  }
  return { ...inputs, parameters };
}

const isPair = (name: string) => name.includes('.lora_');

describe.each(TARGETS)('low-rank pairs on $device in $dtype', ({ dtype, device }) => {
  const check = (layer: LayerCase) => expectRuns('layer', layerInputs(layer, dtype), device);

  test.each(LORAS.map(layer => ({ layer, title: layerTitle(layer) })))('$title', ({ layer }) => {
    for (const applyWeightTo of ['output', 'input'] as const) check({ ...OPTIONS, ...layer, applyWeightTo });
    check({ ...OPTIONS, ...layer, bias: false });
  });

  test.each(LAYOUTS.map(layout => ({ layout, title: layerTitle(layout) })))('beside $title', ({ layout }) => {
    check({ ...OPTIONS, ...withPairs(layout).at(-1)! });
  });

  test.each(LOADS)('$name', load => check(load));

  test.each(RANKS.map((rank, index) => ({ rank, separate: index % 2 === 1 })))(
    'rank $rank, gate and up apart: $separate',
    ({ rank, separate }) => {
      const lora = separate ? { gate: rank, up: rank, down: 3 } : { gate_up: rank, down: rank };
      const inputs = layerInputs({ ...OPTIONS, lora, separate }, dtype);
      expectLayer(`rank ${rank}`, inputs, download(runLayer(inputs, { device })));
    },
  );

  test('with every other option', () => {
    // Without clamps: on which side of one a pre-activation falls may depend on its last bit.
    for (const { activationLimit: _, ...layer } of LAYERS) {
      const options = { ...OPTIONS, ...layer };
      const up = !gated(options) ? { up: 5 } : layer.separate ? { gate: 4, up: 3 } : { gate_up: 5 };
      check({ ...options, lora: { ...up, down: 2 }, loraScale: 1.25 });
    }
  });

  test.each([...new Set([dtype, 'float32'] as const)])('gradients added to %s buffers', stored => {
    for (const layer of [LORAS[2]!, { separate: true, lora: { up: 3, down: 2 } }]) {
      expectAdded(layerInputs({ ...OPTIONS, ...layer }, dtype), stored, device);
    }
  });

  test.each([{}, ...LAYOUTS].map(layout => ({ layout, title: layerTitle(layout) || 'plain' })))(
    'with B = 0 the layer has the bits it has without: $title',
    ({ layout }) => {
      for (const { lora } of withPairs(layout)) {
        const inputs = layerInputs({ ...SMALL, ...layout, lora, loraScale: 3, bias: true }, dtype);
        const zero = withValues(inputs, (name, values) =>
          name.endsWith('.lora_b') ? values.map(() => 0) : values,
        );
        const weights = withValues(inputs, (name, values) => (isPair(name) ? undefined : values));
        const base = { ...weights, config: { ...weights.config, loraScale: undefined } };
        const { gradients: without, ...expected } = downloadBytes(runLayer(base, { device }));
        const { gradients, ...found } = downloadBytes(runLayer(zero, { device }));
        expectSameBytes('layer', found, expected);
        expectSameBytes('router', gradients['router.weight'], without['router.weight']);
        for (const [name, bytes] of Object.entries(gradients)) {
          if (!isPair(name)) continue;
          const { length } = bytes.filter(byte => byte !== 0);
          expect(length > 0, `d ${name} is not all zero`).toBe(name.endsWith('.lora_b'));
        }
      }
    },
  );

  test('A and B in different dtypes', () => {
    for (const wide of ['.lora_a', '.lora_b']) {
      const inputs = layerInputs({ ...OPTIONS, lora: BOTH }, dtype);
      for (const [name, parameter] of Object.entries(inputs.parameters)) {
        if (name.endsWith(wide)) parameter.dtype = 'float32';
      }
      expectRuns(wide, inputs, device);
    }
  });

  test('the gradients of frozen parameters are not there, and are not to be added to', () => {
    const inputs = layerInputs({ ...SMALL, lora: { down: 4 }, bias: true }, dtype);
    const args = uploadLayer(inputs, device);
    const { y, saved, routing } = moeForward({ ...args, save: 'activations' });
    const dy = upload(inputs.dy, [SMALL.tokens, SMALL.hidden], dtype, device);
    const gradients = moeBackward({ dy, saved: saved! });
    expect(Object.keys(gradients.experts).sort()).toEqual(['downLoraA', 'downLoraB']);
    for (const name of ['gateUp', 'down', 'gateUpBias', 'downBias'] as const) {
      const { shape } = args.experts[name]!;
      const into = upload(new Float32Array(args.experts[name]!.size), shape, 'float32', device);
      expect(() => moeBackward({ dy, saved: saved!, accumulateInto: { [name]: into } })).toThrow(
        `accumulateInto.${name}: expected nothing: this gradient is not computed, got a tensor`,
      );
    }
    free([y, routing, gradients]);
    saved!.dispose();
  });

  test('NaN in a pair reaches the tokens of its expert alone', () => {
    const layer: LayerCase = { ...SMALL, topK: 1, given: t => t % 5, lora: BOTH };
    for (const pair of ['gate_up.lora_a', 'gate_up.lora_b', 'down.lora_a', 'down.lora_b']) {
      const inputs = withValues(layerInputs(layer, dtype), (name, values) =>
        name === `experts.${pair}` ? values.with(Math.floor((values.length * 3) / 5), NaN) : values,
      );
      const { y } = download(runLayer(inputs, { device }));
      for (let t = 0; t < SMALL.tokens; t++) {
        const row = y.subarray(t * SMALL.hidden, (t + 1) * SMALL.hidden);
        expect(row.some(Number.isNaN), `${pair}: token ${t}`).toBe(t % 5 === 3);
      }
    }
  });

  test('every pair has a gradient, and nothing else of the experts', () => {
    for (const layer of LORAS) {
      const inputs = layerInputs({ ...SMALL, ...layer, bias: true }, dtype);
      const { gradients } = download(runLayer(inputs, { device }));
      const names = Object.keys(inputs.parameters).filter(name => !isFrozen(name, inputs.parameters));
      expect(Object.keys(gradients).sort()).toEqual(names.sort());
    }
  });
});
