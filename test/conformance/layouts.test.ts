// Experts in every published layout: against the reference, and against the plain layout, bit for bit wherever sums run in the
// same order. At every size at which a tile of a product, or of its epilogue, ends.

import { describe, test } from 'vitest';
import { ACTIVATIONS, type DeviceName } from '../../src/index.ts';
import { columnsPerOutput } from '../reference/activation.ts';
import { activationTitle, CLAMPS } from '../support/activations.ts';
import { expectClose, expectSameBytes } from '../support/compare.ts';
import { type Float, unitRoundoff } from '../support/dtypes.ts';
import { expectAdded, expectRuns } from '../support/expect-layer.ts';
import { type LayerCase, type LayerInputs, layerInputs, runLayer } from '../support/layer.ts';
import { LAYERS, LAYOUTS, type LayerVariant, layerTitle } from '../support/layers.ts';
import { inLayout, tensorInLayout } from '../support/layouts.ts';
import { TARGETS } from '../support/targets.ts';
import { download } from '../support/tensors.ts';

const SMALL: LayerCase = { tokens: 17, hidden: 19, intermediate: 13, experts: 5, topK: 2 };
const OPTIONS: LayerCase = { ...SMALL, tokens: 41, experts: 6, bias: true };

/** Where the tiles of a backend or its vectors end, and one beside. */
const edgesOf = (device: DeviceName): readonly number[] =>
  device === 'cpu'
    ? [1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 63, 64, 65, 129]
    : [1, 7, 8, 9, 16, 17, 33, 64, 65, 129];
/** A GPU's activations know of layouts only whether columns alternate; `activation.test.ts` has all of them. */
const ON_GPUS = ['swiglu', 'relu2', activationTitle(CLAMPS[2]!)];
const formsOn = <Form extends { title: string }>(device: DeviceName, forms: readonly Form[]) =>
  device === 'cpu' ? forms : forms.filter(({ title }) => ON_GPUS.includes(title));
/** 1, 6 and 10 rows. */
const FEW_ROWS: LayerCase = { ...SMALL, topK: 1, experts: 3, given: t => (t < 1 ? 0 : t < 7 ? 1 : 2) };
/** 0, 4 and 13. */
const EMPTY_GROUP: LayerCase = { ...FEW_ROWS, bias: true, given: t => (t < 4 ? 1 : 2) };

const LOADS: readonly LayerCase[] = [
  { ...SMALL, name: 'long inner dimension up', hidden: 1037 },
  { ...SMALL, name: 'long inner dimension down', intermediate: 1029, bias: true },
  { ...SMALL, name: 'wide rows', hidden: 300, intermediate: 270 },
  { ...SMALL, name: 'one expert for 200 tokens', tokens: 200, experts: 1, topK: 1, bias: true },
  { ...SMALL, name: 'one hot expert', tokens: 90, experts: 12, given: (t, k) => (k ? 7 : t % 6), bias: true },
  { ...SMALL, name: 'empty experts', tokens: 40, experts: 30, given: (t, k) => 10 + 2 * ((t + k) % 4) },
  { ...SMALL, name: 'no token', tokens: 0, bias: true },
  { ...SMALL, name: 'one token', tokens: 1, bias: true },
  { name: 'one of everything', tokens: 1, hidden: 1, intermediate: 1, experts: 1, topK: 1, bias: true },
  { ...SMALL, name: 'whole tiles', tokens: 64, hidden: 64, intermediate: 64 },
  { ...SMALL, name: 'float32 biases', wide: true, bias: true },
];

const gated = ({ activation = 'swiglu' }: LayerVariant) => columnsPerOutput(activation) === 2;
const FORMS: readonly LayerVariant[] = [...ACTIVATIONS.map(activation => ({ activation })), ...CLAMPS];

/** Products that are summed among themselves before they are added: by tensor cores, and by a CPU's instruction for bfloat16. */
function productsAtOnce(dtype: Float, device: DeviceName): number {
  if (device !== 'cpu') return dtype === 'float32' ? 1 : 16;
  return dtype === 'bfloat16' ? 2 : 1;
}

/**
 * What is summed in another order than in the plain layout, through interleaved columns, or where the last gates and the first ups
 * are multiplied at once: the gradient of the experts' input, and what comes of it.
 */
function inOtherOrder(
  { dtype, config }: LayerInputs,
  { gateUpLayout, separate }: LayerVariant,
  device: DeviceName,
): (result: string) => boolean {
  const mixed = separate && config.intermediate % productsAtOnce(dtype, device) !== 0;
  if (gateUpLayout !== 'interleaved' && !mixed) return () => false;
  const results = config.applyWeightTo === 'input' ? /^(dx|dWeights|dLogits|router\..*)$/ : /^dx$/;
  return result => results.test(result);
}

/** What a layout computes beside what the plain one does, which is computed once for all of them. */
function expectPlainBits(plain: LayerInputs, layouts: readonly LayerVariant[], device: DeviceName): void {
  const expected = download(runLayer(plain, { device }));
  const bound = Math.max(unitRoundoff(plain.dtype), 2 ** -20);
  for (const layout of layouts) {
    const found = download(runLayer(inLayout(plain, layout), { device }));
    const reordered = inOtherOrder(plain, layout, device);
    const expectSame = (result: string, actual: Float64Array | undefined, values: Float64Array) => {
      const name = `${layerTitle(layout)}: ${result}`;
      if (reordered(result)) expectClose(name, actual!, values, bound);
      else expectSameBytes(name, actual, values);
    };
    for (const key of ['y', 'indices', 'weights', 'dx', 'dWeights'] as const) {
      expectSame(key, found[key], expected[key]);
    }
    if (expected.dLogits) expectSame('dLogits', found.dLogits, expected.dLogits);
    for (const [name, values] of Object.entries(expected.gradients)) {
      const parts = tensorInLayout(name, { shape: plain.parameters[name]!.shape, values }, layout);
      for (const [part, stored] of Object.entries(parts)) {
        expectSame(part, found.gradients[part], stored.values);
      }
    }
  }
}

/** Of experts with a gate, and of those without. */
const GROUPS = [true, false].map(isGated => ({
  title: isGated ? 'with a gate' : 'without one',
  activation: isGated ? ('swiglu' as const) : ('relu2' as const),
  layouts: LAYOUTS.filter(layout => gated(layout) === isGated).map(({ activation: _, ...layout }) => layout),
  forms: FORMS.filter(form => gated(form) === isGated).map(form => ({
    form,
    title: activationTitle({ activation: 'swiglu', ...form }),
  })),
}));

describe.each(TARGETS)('layouts on $device in $dtype', ({ dtype, device }) => {
  describe.each(GROUPS)('$title', ({ activation, layouts, forms }) => {
    const samePlain = (rows: LayerCase, sizes: Partial<LayerCase>) =>
      expectPlainBits(layerInputs({ ...rows, activation, ...sizes }, dtype), layouts, device);
    /** For the widths of a list in turn. */
    const rowsOf = (index: number) => (index % 2 ? FEW_ROWS : EMPTY_GROUP);

    test.each(formsOn(device, forms))('$title', ({ form }) => {
      for (const layout of layouts) {
        expectRuns(layerTitle(layout), layerInputs({ ...OPTIONS, ...form, ...layout }, dtype), device);
      }
      for (const bias of [false, true]) samePlain(OPTIONS, { ...form, bias });
    });

    test.each(LOADS)('$name', load => samePlain(load, {}));

    test('every width of experts', () => {
      for (const [i, intermediate] of edgesOf(device).entries())
        samePlain(rowsOf(i), { hidden: 7, intermediate });
    });

    test('every width of rows', () => {
      for (const [i, hidden] of edgesOf(device).entries())
        samePlain(rowsOf(i + 1), { hidden, intermediate: 7 });
    });

    test('every number of rows', () => {
      for (const rows of [4, 6, 8, 12, 14, 16, 28, 32, 48]) {
        const given = (t: number) => (t < rows - 1 ? 0 : t < 2 * rows - 1 ? 1 : 2);
        samePlain(FEW_ROWS, { tokens: 3 * rows, given, hidden: rows + 1, intermediate: rows - 1 });
      }
    });

    test('with every other option', () => {
      for (const { activation: _, activationLimit: __, separate: ___, ...options } of LAYERS) {
        samePlain(OPTIONS, options);
      }
    });

    test.each([...new Set([dtype, 'float32'] as const)])('gradients added to %s buffers', stored => {
      for (const layout of layouts) {
        expectAdded(layerInputs({ ...OPTIONS, activation, ...layout }, dtype), stored, device);
      }
    });
  });
});
