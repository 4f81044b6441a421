// The reference's own building blocks against published values and against definitions written another way.

import { describe, expect, test } from 'vitest';
import { erf, erfc } from '../reference/erf.ts';
import { roundToBfloat16, roundToFloat16 } from '../reference/precision.ts';
import { expectClose, expectSameBytes, expectTwicePlain } from '../support/compare.ts';
import { decode, encode } from '../support/dtypes.ts';

test('erf and erfc', () => {
  const values = [
    [0.1, 0.1124629160182849],
    [0.5, 0.5204998778130465],
    [1, 0.8427007929497149],
    [1.99, 0.995111413199617],
    [2, 0.9953222650189527],
    [2.01, 0.9955248493552482],
    [3, 0.9999779095030014],
  ] as const;
  for (const [x, value] of values) {
    expect(erf(x)).toBeCloseTo(value, 14);
    expect(erf(-x)).toBe(-erf(x));
    expect(erfc(-x)).toBeCloseTo(1 + value, 14);
  }
  expect(erfc(5) / 1.5374597944280349e-12).toBeCloseTo(1, 12);
  expect(erfc(10) / 2.088487583762545e-45).toBeCloseTo(1, 12);
  expect([erf(0), erf(40), erfc(40), erfc(-40)]).toEqual([0, 1, 0, 2]);
  expect(erfc(NaN)).toBeNaN();
});

describe('16-bit formats', () => {
  test.each(['bfloat16', 'float16'] as const)('every %s survives decoding and encoding', dtype => {
    const bits = Uint16Array.from({ length: 2 ** 16 }, (_, i) => i);
    const values = decode(dtype, bits);
    const again = encode(dtype, values);
    expect(bits.filter(i => !Number.isNaN(values[i]) && again[i] !== i)).toEqual(new Uint16Array());
    expect(values.filter(Number.isNaN).length).toBe(dtype === 'bfloat16' ? 2 * 127 : 2 * 1023);
  });

  test('ties go to even, and overflow to infinity', () => {
    expect(roundToBfloat16(1 + 2 ** -8)).toBe(1);
    expect(roundToBfloat16(1 + 3 * 2 ** -8)).toBe(1 + 2 ** -6);
    expect(roundToBfloat16(1 + 2 ** -8 + 2 ** -20)).toBe(1 + 2 ** -7);
    expect(roundToBfloat16(-3.4e38)).toBe(-Infinity);
    expect(roundToFloat16(1 + 2 ** -11)).toBe(1);
    expect(roundToFloat16(65519.9)).toBe(65504);
    expect(roundToFloat16(65520)).toBe(Infinity);
    expect(roundToFloat16(2 ** -25)).toBe(0);
    expect(roundToFloat16(2 ** -25 + 2 ** -40)).toBe(2 ** -24);
    expect(roundToFloat16(2049)).toBe(2048);
    expect(Object.is(roundToFloat16(-1e-9), -0)).toBe(true);
  });
});

describe('comparisons fail', () => {
  const rejects = (check: () => void) => expect(check).toThrow();
  const ones = new Float64Array(100).fill(1);
  const with99th = (value: number) => ones.map((one, i) => (i === 99 ? value : one));

  test('on NaN, wherever it is', () => {
    rejects(() => expectClose('nan', with99th(NaN), ones, 1));
    rejects(() => expectClose('nan', ones, with99th(NaN), 1));
    rejects(() => expectTwicePlain('nan', 'bfloat16', with99th(NaN), ones, ones));
    rejects(() => expectTwicePlain('nan', 'bfloat16', ones, ones, with99th(NaN)));
  });
  test('on another length, and on anything where zero is expected', () => {
    rejects(() => expectClose('length', ones.subarray(1), ones, 1));
    rejects(() => expectClose('zero', Float64Array.of(1e-30), Float64Array.of(0), 1));
  });
  test('on an error of three times the plain one, or in one element alone', () => {
    const plain = ones.map(one => one * 1.01);
    rejects(() =>
      expectTwicePlain(
        'uniform',
        'float32',
        ones.map(one => one * 1.03),
        ones,
        plain,
      ),
    );
    rejects(() => expectTwicePlain('single', 'float32', with99th(1.05), ones, plain));
    expectTwicePlain(
      'within',
      'float32',
      ones.map(one => one * 1.015),
      ones,
      plain,
    );
  });
  test('on one byte', () => {
    const bytes = { y: Buffer.from([1, 2, 3]) };
    expectSameBytes('same', { y: Buffer.from([1, 2, 3]) }, bytes);
    rejects(() => expectSameBytes('byte', { y: Buffer.from([1, 2, 4]) }, bytes));
    rejects(() => expectSameBytes('missing', {}, bytes));
  });
});
