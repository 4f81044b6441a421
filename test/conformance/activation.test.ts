// Every activation in the epilogue, forward and backward, over its whole range: 1 × 1 products put any value before it.

import { describe, expect, test } from 'vitest';
import { ACTIVATIONS, groupedMatmul, groupedMatmulDgrad } from '../../src/index.ts';
import {
  columnsPerOutput,
  referenceActivation,
  referenceActivationBackward,
} from '../reference/activation.ts';
import { FLOAT64 } from '../reference/precision.ts';
import { activationTitle, CLAMPS } from '../support/activations.ts';
import { decode, encode, type Float, representable, unitRoundoff } from '../support/dtypes.ts';
import { TARGETS } from '../support/targets.ts';
import { download, upload } from '../support/tensors.ts';

/** −12 … 12 in steps, and what exponentials overflow on. */
const GATES = [
  ...Array.from({ length: 301 }, (_, i) => -12 + (24 * i) / 300),
  ...[0, -0, 1e-5, -1e-5, 20, -20, 50, -50, 88, -88, 89, -89, 104, -104, 1e3, -1e3, 6e4, -6e4],
];
/** Of the up half: one of either sign, and one beyond every limit. */
const UPS = [-1.5, 0.25, 40];
const FORMS = [...ACTIVATIONS.map(activation => ({ activation })), ...CLAMPS].flatMap(form => {
  const ups = columnsPerOutput(form.activation) === 2 ? UPS : [1];
  return ups.map(up => ({ form, up, title: `${activationTitle(form)}, up ${up}` }));
});

/**
 * Each value within two roundings, or a few of float32 in what it is made of: 1 − σ and 1 − tanh² are differences of nearly
 * equal numbers that a gate of some size then multiplies.
 */
function expectEach(
  name: string,
  dtype: Float,
  gates: Float32Array,
  actual: Float64Array,
  expected: Float64Array,
  factor: (i: number) => number,
): void {
  const reachable = decode(dtype, encode(dtype, expected));
  const perOutput = actual.length / gates.length;
  expect(actual.length).toBe(expected.length);
  for (const [i, value] of actual.entries()) {
    const gate = gates[Math.floor(i / perOutput)]!;
    if (Object.is(value, reachable[i])) continue;
    const cancelled = 6e-7 * Math.min(Math.max(Math.abs(gate), 1), 12) * factor(Math.floor(i / perOutput));
    const bound = 2 * unitRoundoff(dtype) * Math.abs(expected[i]!) + cancelled;
    const error = Math.abs(value - expected[i]!);
    if (!(error <= bound)) expect.fail(`${name} at ${gate}: expected ${expected[i]}, got ${value}`);
  }
}

describe.each(TARGETS)('activations on $device in $dtype', ({ dtype, device }) => {
  const gates = representable(dtype, Float32Array.from(GATES));
  const offsets = [0, gates.length];

  describe.each(FORMS)('$title', ({ form, up }) => {
    const { activation, ...numbers } = form;
    const columns = columnsPerOutput(activation);
    const factor = Math.max(1, Math.abs(up));
    const pre = Float64Array.from({ length: gates.length * columns }, (_, i) =>
      columns === 1 ? gates[i]! : i % 2 ? up : gates[i / 2]!,
    );

    test('forward', () => {
      const { out, preActivation } = download(
        groupedMatmul({
          rows: upload(gates, [gates.length, 1], dtype, device),
          weight: upload(columns === 1 ? [1] : [1, 0], [1, columns, 1], dtype, device),
          bias: upload(columns === 1 ? [0] : [0, up], [1, columns], dtype, device),
          offsets: upload(offsets, [2], 'int32', device),
          ...form,
          savePreActivation: true,
        }),
      );
      // Adding a zero bias may turn −0 into 0.
      expect(preActivation!.map(x => x + 0)).toEqual(pre.map(x => x + 0));
      expectEach(
        'value',
        dtype,
        gates,
        out,
        referenceActivation(activation, pre, 1, FLOAT64, numbers),
        () => factor,
      );
    });

    test('backward', () => {
      const dOut = representable(
        dtype,
        gates.map((_, i) => Math.sin(i) + 1.5),
      );
      const dPre = download(
        groupedMatmulDgrad({
          dOut: upload(dOut, [gates.length, 1], dtype, device),
          weight: upload([1], [1, 1, 1], dtype, device),
          offsets: upload(offsets, [2], 'int32', device),
          ...form,
          preActivation: upload(pre, [gates.length, columns], dtype, device),
        }),
      );
      const expected = referenceActivationBackward(
        activation,
        pre,
        1,
        Float64Array.from(dOut),
        FLOAT64,
        numbers,
      );
      expectEach('slope', dtype, gates, dPre, expected, i => factor * Math.abs(dOut[i]!));
    });

    test('NaN stays NaN', () => {
      const { out } = download(
        groupedMatmul({
          rows: upload([NaN, 1], [2, 1], dtype, device),
          weight: upload(columns === 1 ? [1] : [1, 1], [1, columns, 1], dtype, device),
          offsets: upload([0, 2], [2], 'int32', device),
          ...form,
        }),
      );
      expect(out[0]).toBeNaN();
      expect(out[1]).toBeGreaterThan(0);
    });
  });
});
