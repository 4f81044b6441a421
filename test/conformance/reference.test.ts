// The reference's own building blocks against published values and against definitions written another way.

import { describe, expect, test } from 'vitest';
import { erf, erfc } from '../reference/erf.ts';
import {
  annealed,
  gumbel,
  normalQuantile,
  normalShare,
  philox,
  uniformOf,
  uniforms,
} from '../reference/noise.ts';
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

describe('noise', () => {
  // The generator's known-answer vectors, of 10 rounds (Salmon et al. 2011).
  const ONES = 0xffffffff;
  test.each([
    [
      [0, 0, 0, 0],
      [0, 0],
      [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
    ],
    [
      [ONES, ONES, ONES, ONES],
      [ONES, ONES],
      [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
    ],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    ],
  ] as [[number, number, number, number], [number, number], number[]][])(
    'philox of %o',
    (counter, key, words) => {
      expect(philox(counter, key)).toEqual(words);
    },
  );

  test('uniform numbers are odd multiples of 2⁻²⁴, placed by seed, step, row and column', () => {
    expect([uniformOf(0), uniformOf(2 ** 32 - 1)]).toEqual([2 ** -24, 1 - 2 ** -24]);
    const [seed, step] = [2 ** 33 + 5, 2 ** 34 + 6];
    const found = uniforms(seed, step, 3, 7);
    expect(found[2 * 7 + 5]).toBe(uniformOf(philox([1, 2, 6, 4], [5, 2])[1]!));
    expect(found.every(u => Number.isInteger((u * 2 ** 24 - 1) / 2))).toBe(true);
  });

  test('quantiles', () => {
    const values = [
      [0.5, 0],
      [0.975, 1.959963984540054],
      [0.999, 3.090232306167813],
      [1e-6, -4.753424308822899],
    ] as const;
    for (const [u, value] of values) expect(normalQuantile(u)).toBeCloseTo(value, 12);
    for (const u of [2 ** -24, 0.01, 0.3, 0.5, 0.8, 1 - 2 ** -24])
      expect(normalShare(normalQuantile(u)) / u).toBeCloseTo(1, 12);
    expect(gumbel(Math.exp(-1))).toBeCloseTo(0, 14);
  });

  test('annealing', () => {
    const strengths = (anneal: object, steps: number[]) =>
      steps.map(step => annealed({ kind: 'noisyTopK', anneal: { steps: 8, ...anneal } }, step));
    expect(strengths({}, [0, 2, 8, 9])).toEqual([1, 0.75, 0, 0]);
    expect(strengths({ to: 0.5, shape: 'linear' }, [0, 4, 80])).toEqual([1, 0.75, 0.5]);
    expect(strengths({ to: 0.0625, shape: 'exponential' }, [0, 2, 4, 8, 9])).toEqual([
      1, 0.5, 0.25, 0.0625, 0.0625,
    ]);
    const [start, middle, end] = strengths({ to: 0.2, shape: 'cosine' }, [0, 4, 8]);
    expect([start, middle, end]).toEqual([1, expect.closeTo(0.6, 14), expect.closeTo(0.2, 14)]);
    expect(annealed({ kind: 'jitter', eps: 1 }, 3)).toBe(1);
  });
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
