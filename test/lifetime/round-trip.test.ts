// Into a tensor and out again: data(), dataSync(), write() and cast(), bit for bit and in the order they were called.

import { totalmem } from 'node:os';
import { describe, expect, it } from 'vitest';
import { type DType, memory, type TensorData, tensor, zeros } from '../../src/index.ts';
import { decode, encode } from '../support/dtypes.ts';
import { seeded } from '../support/random.ts';
import { runChild } from './support/run-child.ts';
import { expectSame } from './support/same.ts';
import { enqueueLongWork } from './support/work.ts';

const ALL_BITS = Uint16Array.from({ length: 2 ** 16 }, (_, bits) => bits);

function examples(dtype: DType): TensorData {
  if (dtype === 'float32') return Float32Array.from([0, -0, 1.5, -Infinity, 3.4e38, 1e-45, 2 ** -126]);
  if (dtype === 'int32') return Int32Array.from([0, 1, -1, 2 ** 31 - 1, -(2 ** 31)]);
  return ALL_BITS;
}

describe.each(['float32', 'int32', 'bfloat16', 'float16'] as const)('%s', dtype => {
  const values = examples(dtype);
  const shape = [values.length];

  it('comes back bit for bit from data() and dataSync()', async () => {
    using copy = tensor(values, shape, { dtype });
    expectSame(await copy.data(), values);
    expectSame(copy.dataSync(), values);
  });

  it('comes back from write()', async () => {
    using target = zeros(shape, { dtype });
    target.write(values);
    expectSame(await target.data(), values);
  });

  it('comes back from write() in parts', async () => {
    using target = tensor(values, shape, { dtype });
    const cuts = [0, 1, 3, values.length];
    const shifted = values.map((_, i) => values[(i + 1) % values.length]!);
    for (const [i, at] of cuts.slice(0, -1).entries()) target.write(shifted.slice(at, cuts[i + 1]), { at });
    expectSame(await target.data(), shifted);
    target.write(values.slice(2, 5), { at: 2 });
    expectSame(
      await target.data(),
      shifted.map((value, i) => (i >= 2 && i < 5 ? values[i]! : value)),
    );
    target.write(values.slice(0, 0), { at: values.length });
    target.write(values, { at: 0 });
    expectSame(await target.data(), values);
  });

  it('comes back empty', async () => {
    using empty = tensor(values.slice(0, 0), [3, 0, 2], { dtype });
    expect(empty.size).toBe(0);
    expect(await empty.data()).toEqual(values.slice(0, 0));
    expect(empty.dataSync()).toEqual(values.slice(0, 0));
    empty.write(values.slice(0, 0));
  });
});

it('data() returns an array of its own each time', async () => {
  using source = tensor([1, 2], [2]);
  const first = await source.data();
  first[0] = 9;
  expect(await source.data()).toEqual(new Float32Array([1, 2]));
});

describe('write() in parts', () => {
  const part = (source: TensorData, options: unknown) => {
    using target = tensor([1, 2, 3, 4], [2, 2]);
    const before = memory().tensors;
    const call = () => target.write(source, options as { at: number });
    let error: unknown;
    try {
      call();
    } catch (thrown) {
      error = thrown;
    }
    expect(target.dataSync()).toEqual(new Float32Array([1, 2, 3, 4]));
    expect(memory().tensors).toBe(before);
    return error;
  };
  const two = new Float32Array(2);

  /** Title, source, options, code and message. */
  const BAD: [string, TensorData, unknown, string, string][] = [
    ['less than all without at', two, {}, 'ERR_SHAPE', 'source: expected 4 elements, got 2'],
    [
      'more than all',
      new Float32Array(5),
      { at: 0 },
      'ERR_SHAPE',
      'source: expected at most 4 elements, got 5',
    ],
    [
      'past the end',
      two,
      { at: 3 },
      'ERR_INVALID_ARGUMENT',
      'options.at: expected an integer from 0 to 2, got 3',
    ],
    [
      'before the start',
      two,
      { at: -1 },
      'ERR_INVALID_ARGUMENT',
      'options.at: expected an integer from 0 to 2, got -1',
    ],
    [
      'between elements',
      two,
      { at: 0.5 },
      'ERR_INVALID_ARGUMENT',
      'options.at: expected an integer from 0 to 2, got 0.5',
    ],
    [
      'nowhere',
      two,
      { at: null },
      'ERR_INVALID_ARGUMENT',
      'options.at: expected an integer from 0 to 2, got null',
    ],
    [
      'another dtype',
      new Int32Array(2),
      { at: 0 },
      'ERR_DTYPE',
      'source: expected Float32Array for float32, got Int32Array(2)',
    ],
    [
      'an unknown option',
      two,
      { from: 0 },
      'ERR_INVALID_ARGUMENT',
      'options: expected only the keys at, got "from"',
    ],
    ['a number for options', two, 2, 'ERR_INVALID_ARGUMENT', 'options: expected an object, got 2'],
  ];

  it.each(BAD)('refuses %s', (_, source, options, code, message) => {
    expect(part(source, options)).toMatchObject({ code, message });
  });

  it('refuses a detached array', () => {
    const source = new Float32Array(2);
    structuredClone(source, { transfer: [source.buffer] });
    expect(part(source, { at: 0 })).toMatchObject({ code: 'ERR_DETACHED' });
  });

  it('reaches a tensor under another shape, and one that shares an array', async () => {
    const array = new Float32Array(6);
    using shared = tensor(array, [6], { copy: false });
    using reshaped = shared.reshape([2, 3]);
    reshaped.write(new Float32Array([1, 2]), { at: 4 });
    expect(await shared.data()).toEqual(new Float32Array([0, 0, 0, 0, 1, 2]));
    expect(array).toEqual(new Float32Array([0, 0, 0, 0, 1, 2]));
  });

  it.skipIf(totalmem() < 12 * 2 ** 30)('reaches past 2³² elements (needs 12 GiB of memory)', async () => {
    const { stdout, stderr } = await runChild('write-far');
    expect(stderr).toBe('');
    expect(JSON.parse(stdout)).toEqual({ elements: 2 ** 32 + 2 ** 20, first: 2048, sum: 1023 * 1024 + 2048 });
  });
});

describe('cast', () => {
  it.each(['bfloat16', 'float16'] as const)('%s → float32 is exact for every value there is', async dtype => {
    using narrow = tensor(ALL_BITS, [2 ** 16], { dtype });
    using wide = narrow.cast('float32');
    expectSame(Float64Array.from(await wide.data()), decode(dtype, ALL_BITS));
    using back = wide.cast(dtype);
    expectSame(decode(dtype, await back.data()), decode(dtype, ALL_BITS));
  });

  it.each(['bfloat16', 'float16'] as const)('float32 → %s rounds to nearest even', async dtype => {
    const values = seeded(1).normals(20_000);
    // Every exponent, ties to even on both sides, subnormals, overflow.
    const hard = Array.from({ length: 600 }, (_, i) => (i % 2 ? -1 : 1) * 2 ** (i / 2 - 150) * (1 + 2 ** -9));
    const ties = Array.from(
      { length: 64 },
      (_, i) => 1 + (2 * i + 1) * 2 ** (dtype === 'bfloat16' ? -8 : -11),
    );
    const all = Float32Array.from([
      ...values,
      ...hard,
      ...ties,
      65519,
      65520,
      3.4e38,
      0,
      -0,
      Infinity,
      Number.NaN,
    ]);
    using wide = tensor(all, [all.length]);
    using narrow = wide.cast(dtype);
    const bits = await narrow.data();
    const last = all.length - 1;
    expectSame(bits.subarray(0, last), encode(dtype, all.subarray(0, last)));
    expect(decode(dtype, bits)[last]).toBeNaN();
    using made = tensor(all, [all.length], { dtype });
    expectSame(await made.data(), bits);
  });

  it('between the 16-bit dtypes rounds once', async () => {
    const values = seeded(2).normals(4096);
    using half = tensor(values, [4096], { dtype: 'float16' });
    using brain = half.cast('bfloat16');
    expectSame(await brain.data(), encode('bfloat16', await half.float32()));
  });

  it('goes to int32 and back through float32', async () => {
    using integers = tensor([0, 1, -1, 2 ** 24, -(2 ** 24)], [5], { dtype: 'int32' });
    using floats = integers.cast('float32');
    expect(await floats.data()).toEqual(new Float32Array([0, 1, -1, 2 ** 24, -(2 ** 24)]));
    using back = floats.cast('int32');
    expect(await back.data()).toEqual(await integers.data());
  });

  it('refuses int32 with a 16-bit dtype', () => {
    using integers = zeros([2], { dtype: 'int32' });
    expect(() => integers.cast('bfloat16')).toThrow(
      expect.objectContaining({
        code: 'ERR_DTYPE',
        message: 'dtype: expected float32 to or from int32, got int32 to bfloat16',
      }),
    );
  });
});

describe('the order of calls', () => {
  it('is the order in which they take effect', async () => {
    using target = tensor([1, 1], [2]);
    enqueueLongWork();
    using first = target.cast('bfloat16');
    const readFirst = target.data();
    target.write(new Float32Array([2, 2]));
    using second = target.cast('bfloat16');
    const readSecond = target.data();
    target.write(new Float32Array([3, 3]));
    expect(target.dataSync()).toEqual(new Float32Array([3, 3]));
    expect(await readFirst).toEqual(new Float32Array([1, 1]));
    expect(await readSecond).toEqual(new Float32Array([2, 2]));
    expect(await first.float32()).toEqual(new Float32Array([1, 1]));
    expect(await second.float32()).toEqual(new Float32Array([2, 2]));
  });

  it('write() takes its copy at the call', async () => {
    const source = new Float32Array([1, 2]);
    using target = zeros([2]);
    enqueueLongWork();
    target.write(source);
    source.fill(9);
    expect(await target.data()).toEqual(new Float32Array([1, 2]));
  });

  it('tensor() takes its copy at the call', async () => {
    const source = new Float32Array([1, 2]);
    enqueueLongWork();
    using copy = tensor(source, [2]);
    source.fill(9);
    expect(await copy.data()).toEqual(new Float32Array([1, 2]));
  });
});

it('many tensors can be read at once', async () => {
  const tensors = Array.from({ length: 500 }, (_, i) => tensor(new Float32Array(100 + i).fill(i), [100 + i]));
  const arrays = await Promise.all(tensors.map(each => each.data()));
  for (const [i, array] of arrays.entries()) expect(array).toEqual(new Float32Array(100 + i).fill(i));
  for (const each of tensors) each.dispose();
});

it('one tensor can be read many times at once', async () => {
  using source = tensor(seeded(4).normals(1000), [1000]);
  const expected = source.dataSync();
  const arrays = await Promise.all(Array.from({ length: 100 }, () => source.data()));
  for (const array of arrays) expectSame(array, expected);
});
