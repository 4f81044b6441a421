// The reference's own building blocks, and its experts, against published values and against definitions written another way.

import { describe, expect, test } from 'vitest';
import { erf, erfc } from '../reference/erf.ts';
import { type ReferenceParameters, referenceMoe } from '../reference/moe.ts';
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
import { type LayerCase, type LayerInputs, layerInputs } from '../support/layer.ts';
import { LAYOUTS, layerTitle } from '../support/layers.ts';
import { inLayout, tensorInLayout } from '../support/layouts.ts';

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

describe('experts written another way', () => {
  const SIZES: LayerCase = { tokens: 11, hidden: 6, intermediate: 5, experts: 4, topK: 2, bias: true };
  const valuesOf = ({ parameters }: LayerInputs) =>
    Object.fromEntries(
      Object.entries(parameters).map(([name, { values }]) => [name, Float64Array.from(values)]),
    );
  const run = (inputs: LayerInputs, values: ReferenceParameters = valuesOf(inputs)) =>
    referenceMoe(inputs.config, values, inputs.x, inputs.dy);

  test('low-rank pairs are weights merged from them', () => {
    const [rank, scale] = [3, 0.75];
    const layer: LayerCase = { ...SIZES, lora: { gate_up: rank, down: rank }, loraScale: scale };
    const inputs = layerInputs(layer, 'float32', 3);
    const { hidden, intermediate, experts } = SIZES;
    const values = valuesOf(inputs);
    const plain: typeof values = {};
    for (const [name, value] of Object.entries(values)) if (!name.includes('.lora_')) plain[name] = value;
    for (const [name, width, columns] of [
      ['experts.gate_up', 2 * intermediate, hidden],
      ['experts.down', hidden, intermediate],
    ] as const) {
      const [a, b] = [values[`${name}.lora_a`]!, values[`${name}.lora_b`]!];
      const merged = Float64Array.from(values[name]!);
      for (let e = 0; e < experts; e++) {
        for (let row = 0; row < width; row++) {
          for (let column = 0; column < columns; column++) {
            for (let i = 0; i < rank; i++) {
              merged[(e * width + row) * columns + column]! +=
                scale * b[(e * width + row) * rank + i]! * a[(e * rank + i) * columns + column]!;
            }
          }
        }
      }
      plain[name] = merged;
    }
    const [paired, whole] = [run(inputs, values), run(inputs, plain)];
    for (const key of ['y', 'dx', 'dWeights'] as const) expectClose(key, paired[key], whole[key], 1e-13);
    const router = 'router.weight';
    expectClose('router', paired.gradients[router]!, whole.gradients[router]!, 1e-13);
  });

  test('shared experts that nothing weighs are one, their widths added', () => {
    const [count, width] = [3, 4];
    const { hidden } = SIZES;
    const inputs = layerInputs({ ...SIZES, shared: { intermediate: width, count } }, 'float32', 3);
    const values = valuesOf(inputs);
    /** [n, H, Is] as [H, n·Is] */
    const joined = (down: Float64Array) =>
      down.map((_, at) => {
        const [h, i] = [Math.floor(at / (count * width)), at % (count * width)];
        return down[(Math.floor(i / width) * hidden + h) * width + (i % width)]!;
      });
    const several = run(inputs);
    const one = run(
      { ...inputs, config: { ...inputs.config, shared: { intermediate: count * width } } },
      { ...values, 'shared.down': joined(values['shared.down']!) },
    );
    for (const key of ['y', 'dx'] as const) expectClose(key, several[key], one[key], 1e-14);
    for (const name of ['shared.gate', 'shared.up']) {
      expectClose(name, several.gradients[name]!, one.gradients[name]!, 1e-14);
    }
    expectClose('down', joined(several.gradients['shared.down']!), one.gradients['shared.down']!, 1e-14);
  });

  test('shared experts each with a gate and a weight are the sum of layers with one each', () => {
    const [count, intermediate] = [2, 4];
    const shared = { intermediate, count, gate: 'sigmoid' as const };
    const inputs = layerInputs({ ...SIZES, shared, sharedWeights: true }, 'float32', 3);
    const values = valuesOf(inputs);
    const withOne = (i: number) => {
      const part = (name: string, value: Float64Array) =>
        name.startsWith('shared.')
          ? value.slice((i * value.length) / count, ((i + 1) * value.length) / count)
          : value;
      const own = Object.entries(values).map(([name, value]) => [name, part(name, value)] as const);
      const config = { ...inputs.config, shared: { intermediate } };
      return run({ ...inputs, config }, Object.fromEntries(own));
    };
    const none = run({ ...inputs, config: { ...inputs.config, shared: undefined } });
    const both = run(inputs);
    const [first, second] = [withOne(0), withOne(1)];
    for (const key of ['y', 'dx'] as const) {
      const sum = first[key].map((value, i) => value + second[key][i]! - none[key][i]!);
      expectClose(key, both[key], sum, 1e-14);
    }
    for (const name of Object.keys(values).filter(name => name.startsWith('shared.'))) {
      const joined = [...first.gradients[name]!, ...second.gradients[name]!];
      expectClose(name, both.gradients[name]!, joined, 1e-14);
    }
  });

  test.each(LAYOUTS.map(layout => ({ layout, title: layerTitle(layout) })))(
    'rearranged, a layer is the same: $title',
    ({ layout }) => {
      const { activation, ...arrangement } = layout;
      const plain = layerInputs({ ...SIZES, activation }, 'float32', 3);
      const [expected, found] = [run(plain), run(inLayout(plain, arrangement))];
      expect([found.y, found.dx, found.dWeights]).toEqual([expected.y, expected.dx, expected.dWeights]);
      for (const [name, gradient] of Object.entries(expected.gradients)) {
        const { shape } = plain.parameters[name]!;
        const parts = tensorInLayout(name, { shape, values: gradient }, arrangement);
        for (const [part, { values }] of Object.entries(parts)) expect(found.gradients[part]).toEqual(values);
      }
    },
  );
});
