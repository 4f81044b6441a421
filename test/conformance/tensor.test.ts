// Tensors as numbers: what is stored, how dtypes convert, and that unwritten memory cannot pass for a result.

import { describe, expect, test } from 'vitest';
import { backendInfo, devices, empty, Tensor, tensor, zeros } from '../../src/index.ts';
import { decode, encode } from '../support/dtypes.ts';
import { seeded } from '../support/random.ts';
import { DEVICES, DTYPES } from '../support/targets.ts';
import { download, upload } from '../support/tensors.ts';

test.each(DEVICES)('native memory of %s is poisoned in these tests', device => {
  for (const dtype of DTYPES)
    expect(download(empty([1000], { dtype, device })).every(Number.isNaN)).toBe(true);
});

test('the device says what it is', () => {
  const { instructionSet, instructionSets, threads, cores, binary } = backendInfo();
  expect(instructionSets).toContain(instructionSet);
  expect(instructionSets.at(-1)).toBe('baseline');
  expect(threads).toBeGreaterThan(0);
  expect(cores).toBeGreaterThan(0);
  expect(binary).toMatch(/\.node$/);
  expect(devices()[0]).toEqual({ name: 'cpu', description: instructionSet });
});

/** Numbers at which rounding to 16 bits turns: around every power of two, around ties, and random bits. */
function hardNumbers(): Float32Array {
  const random = seeded(1);
  const words = Uint32Array.from({ length: 20_000 }, () => random.integer(2 ** 32));
  const powers = Array.from({ length: 280 }, (_, i) => 2 ** (i - 150));
  const near = powers.flatMap(p =>
    [1, 1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 + 2 ** -11, 1 + 3 * 2 ** -11, 1 - 2 ** -12].map(f => f * p),
  );
  const special = [
    0,
    -0,
    Infinity,
    -Infinity,
    NaN,
    65504,
    65519.99,
    65520,
    3.38e38,
    3.4e38,
    2 ** -24,
    2 ** -25,
  ];
  return Float32Array.from([...new Float32Array(words.buffer), ...near, ...near.map(x => -x), ...special]);
}

describe.each(DEVICES)('conversions on %s', device => {
  const numbers = hardNumbers();
  /** NaN as one NaN: its bits are nobody's promise. */
  const canonical = (values: Float64Array) => values.map(value => (Number.isNaN(value) ? NaN : value));

  test.each(['bfloat16', 'float16'] as const)(
    'float32 to %s rounds to nearest even, and back is exact',
    dtype => {
      const narrow = upload(numbers, [numbers.length], 'float32', device).cast(dtype);
      const bits = narrow.dataSync();
      const expected = encode(dtype, numbers);
      for (const [i, value] of numbers.entries()) {
        if (!Number.isNaN(value) && bits[i] !== expected[i])
          expect.fail(`${value}: ${bits[i]}, not ${expected[i]}`);
      }
      const wide = download(narrow.cast('float32'));
      expect(canonical(wide)).toEqual(canonical(decode(dtype, expected)));
      narrow.dispose();
      const given = tensor(numbers, [numbers.length], { dtype, device });
      expect(canonical(download(given))).toEqual(canonical(decode(dtype, expected)));
    },
  );

  test.each(['bfloat16', 'float16'] as const)('every %s is exact in float32', dtype => {
    const bits = Uint16Array.from({ length: 2 ** 16 }, (_, i) => i);
    const source = tensor(bits, [2 ** 8, 2 ** 8], { dtype, device });
    expect(canonical(download(source.cast('float32')))).toEqual(canonical(decode(dtype, bits)));
    source.dispose();
  });

  test('between the 16-bit dtypes, by way of float32', () => {
    const values = seeded(2).normals(5000, 300);
    const half = upload(values, [5000], 'float16', device);
    const expected = decode('bfloat16', encode('bfloat16', decode('float16', encode('float16', values))));
    expect(download(half.cast('bfloat16'))).toEqual(expected);
    const brief = upload(expected, [5000], 'bfloat16', device);
    expect(download(brief.cast('float16'))).toEqual(decode('float16', encode('float16', expected)));
  });

  test('to int32: ties to even, what does not fit to the nearest that does, NaN to 0', () => {
    const source = upload([0.5, 1.5, -2.5, 1e30, -1e30, NaN], [6], 'float32', device);
    expect([...download(source.cast('int32'))]).toEqual([0, 2, -2, 2 ** 31 - 1, -(2 ** 31), 0]);
  });

  test('int32 to float32 and back', () => {
    const integers = [0, 1, -1, 2 ** 24, -(2 ** 24), 123_456];
    const source = upload(integers, [6], 'int32', device);
    const wide = source.cast('float32');
    expect([...download(wide.cast('int32'))]).toEqual(integers);
    expect([...download(wide)]).toEqual(integers);
  });
});

describe.each(DEVICES)('contents on %s', device => {
  test.each([...DTYPES, 'int32'] as const)('%s: written, overwritten, copied out', async dtype => {
    const values = [3, -1, 0, 7, 2, -8];
    using t = tensor(values, [2, 3], { dtype, device });
    expect(decode(dtype, await t.data())).toEqual(Float64Array.from(values));
    expect([...(await t.float32())]).toEqual(values);
    t.write(encode(dtype, values.toReversed()));
    expect(decode(dtype, t.dataSync())).toEqual(Float64Array.from(values.toReversed()));
    expect(t.toString()).toBe(`Tensor(${dtype} [2, 3] on ${device})`);
    expect(t.byteLength).toBe(6 * (dtype === 'bfloat16' || dtype === 'float16' ? 2 : 4));
  });

  test('write copies at the call', () => {
    const source = Float32Array.of(1, 2, 3);
    using t = empty([3], { device });
    t.write(source);
    source.fill(9);
    expect([...t.dataSync()]).toEqual([1, 2, 3]);
  });

  test.each(DTYPES)('zeros in %s, of any rank', dtype => {
    for (const shape of [[], [0], [3, 0, 2], [5], [1, 2, 3, 4, 1, 1, 1, 2]]) {
      const t = zeros(shape, { dtype, device });
      expect(t.shape).toEqual(shape);
      expect(t.size).toBe(shape.reduce((a, b) => a * b, 1));
      expect(download(t)).toEqual(new Float64Array(t.size));
    }
  });

  test('a scalar and a tensor without elements', async () => {
    const scalar = upload([4], [], 'float32', device);
    expect(scalar.shape).toEqual([]);
    expect([...(await scalar.data())]).toEqual([4]);
    const none = upload([], [0, 7], 'bfloat16', device);
    expect((await none.data()).length).toBe(0);
    expect(none).toBeInstanceOf(Tensor);
  });

  test('ops run in the order in which they were enqueued', () => {
    using t = zeros([1000], { device });
    const seen: Tensor[] = [];
    for (let step = 0; step < 50; step++) {
      t.write(new Float32Array(1000).fill(step));
      seen.push(t.cast('bfloat16'));
    }
    for (const [step, copy] of seen.entries()) expect(new Set(download(copy))).toEqual(new Set([step]));
  });
});
