// Tensors over native memory: nothing is copied, any natural alignment gives the same bits, and owners live as long as needed.

import { afterEach, describe, expect, it, test } from 'vitest';
import {
  type DeviceName,
  type DType,
  dispatch,
  finished,
  moeBackward,
  moeForward,
  permute,
  permuteBackward,
  Tensor,
  tensorFromPointer,
  unpermute,
  unpermuteBackward,
  zeros,
} from '../../src/index.ts';
import { collectAll, collectUntil } from '../lifetime/support/collect.ts';
import { describeBadCalls } from '../support/bad-calls.ts';
import { type Float, representable } from '../support/dtypes.ts';
import { layerInputs, uploadLayer } from '../support/layer.ts';
import { seeded } from '../support/random.ts';
import { DEVICES, TARGETS } from '../support/targets.ts';
import { downloadBytes, upload } from '../support/tensors.ts';

const [T, H, E, K] = [13, 24, 5, 2];
const bytesOf = (dtype: DType) => (dtype === 'float32' || dtype === 'int32' ? 4 : 2);

const borrowed: Tensor[] = [];
afterEach(() => {
  for (const tensor of borrowed.splice(0)) tensor.dispose();
});

/** The same elements at an address that is a multiple of nothing but the dtype's size. */
function shifted(tensor: Tensor): Tensor {
  const { dtype, shape, device, size } = tensor;
  const bytes = bytesOf(dtype);
  const room = zeros([size + 16], { dtype, device });
  const odd = Number((16n - (room.pointer % 16n)) % 16n) / bytes + 1;
  const moved = tensorFromPointer(room.pointer + BigInt(odd * bytes), dtype, shape, { device, owner: room });
  expect(moved.pointer % 16n).toBe(BigInt(bytes));
  moved.write(tensor.dataSync() as Float32Array);
  borrowed.push(moved, room);
  return moved;
}

/** The result of `call` where its tensors lie well and where they lie badly. */
function bothWays<T>(call: (place: (tensor: Tensor) => Tensor) => T) {
  return [downloadBytes(call(tensor => tensor)), downloadBytes(call(shifted))] as const;
}

describe.each(TARGETS)('$device $dtype', ({ device, dtype }) => {
  const randoms = (seed: number, ...shape: number[]) =>
    upload(representable(dtype, seeded(seed).normals(shape.reduce((a, b) => a * b))), shape, dtype, device);

  it('is the same memory', () => {
    const own = randoms(1, 4, 8);
    using other = tensorFromPointer(own.pointer, dtype, [32], { device });
    expect(other.pointer).toBe(own.pointer);
    expect(downloadBytes(other.reshape([32]))).toEqual(downloadBytes(own.reshape([4, 8])));
    const [last] = own.dataSync().slice(31);
    using tail = tensorFromPointer(own.pointer + BigInt(31 * bytesOf(dtype)), dtype, [1], { device });
    expect(tail.dataSync()[0]).toBe(last);
    tail.write(other.dataSync().slice(0, 1) as Float32Array);
    expect(own.dataSync()[31]).toBe(own.dataSync()[0]);
  });

  test('permute and unpermute, forward and backward, do not depend on the address', () => {
    const experts = seeded(3);
    const indices = upload(
      Array.from({ length: T }, () => experts.integer(E)).flatMap(first => [first, (first + 1) % E]),
      [T, K],
      'int32',
      device,
    );
    const permutation = dispatch({ indices, experts: E });
    const weights = upload(seeded(4).normals(T * K), [T, K], 'float32', device);
    const x = randoms(5, T, H);
    const rows = randoms(6, T * K, H);
    const dy = randoms(7, T, H);
    const [well, badly] = bothWays(place => ({
      rows: permute({ x: place(x), indices: place(indices), experts: E }),
      dx: permuteBackward({ dRows: place(rows), dispatch: permutation }),
      y: unpermute({ rows: place(rows), dispatch: permutation, weights }),
      ...unpermuteBackward({ dy: place(dy), rows: place(rows), dispatch: permutation, weights }),
    }));
    expect(badly).toEqual(well);
    for (const part of Object.values(permutation)) part.dispose();
  });

  test('a layer, forward and backward, does not depend on the addresses', () => {
    const inputs = layerInputs({ tokens: T, hidden: H, intermediate: 16, experts: E, topK: K }, dtype);
    const args = uploadLayer(inputs, device);
    const dy = randoms(8, T, H);
    const [well, badly] = bothWays(place => {
      const moved = <V>(value: V): V => {
        if (value instanceof Tensor) return place(value) as V;
        if (typeof value !== 'object' || value === null) return value;
        return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, moved(part)])) as V;
      };
      const { y, saved, routing } = moeForward({ ...moved(args), save: 'activations' });
      const gradients = moeBackward({ dy: place(dy), saved: saved! });
      return { y, routing, ...gradients };
    });
    expect(badly).toEqual(well);
  });
});

describe.each(DEVICES)('the owner on %s', device => {
  async function borrow(whenGone: () => void): Promise<Tensor> {
    const memory = zeros([256], { device });
    await finished(device);
    const owner = { memory };
    watched.register(owner, whenGone);
    return tensorFromPointer(memory.pointer, 'float32', [256], { device, owner });
  }
  /** Lent memory is let go of at a later call. */
  const whenLetGo = (gone: () => boolean) => async () => {
    await finished(device);
    return gone();
  };
  const watched = new FinalizationRegistry<() => void>(whenGone => whenGone());

  it('lives as long as the tensor and its views', async () => {
    let gone = false;
    const tensor = await borrow(() => {
      gone = true;
    });
    const view = tensor.reshape([16, 16]);
    tensor.dispose();
    await collectAll();
    expect(gone).toBe(false);
    expect(view.dataSync()).toEqual(new Float32Array(256));
    view.dispose();
    expect(await collectUntil(whenLetGo(() => gone))).toBe(true);
  });

  it('lives as long as pending ops, and no longer', async () => {
    let gone = false;
    const tensor = await borrow(() => {
      gone = true;
    });
    const copy = tensor.cast('bfloat16');
    tensor.dispose();
    await finished(device);
    copy.dispose();
    expect(await collectUntil(whenLetGo(() => gone))).toBe(true);
  });
});

const call = (pointer: unknown, dtype: unknown = 'float32', shape: unknown = [4], options: unknown = {}) =>
  tensorFromPointer(pointer as bigint, dtype as Float, shape as number[], options as object);

describeBadCalls('tensorFromPointer refuses', [
  [
    'a number',
    () => () => call(64),
    'ERR_INVALID_ARGUMENT',
    'pointer: expected a bigint from 0n to 2n ** 64n - 1n, got 64',
  ],
  ['a negative address', () => () => call(-4n), 'ERR_INVALID_ARGUMENT', /^pointer: expected a bigint/],
  [
    'an address of 65 bits',
    () => () => call(2n ** 64n),
    'ERR_INVALID_ARGUMENT',
    /^pointer: expected a bigint/,
  ],
  [
    'null',
    () => () => call(0n),
    'ERR_INVALID_ARGUMENT',
    'pointer: expected a multiple of 4 bytes, got a null pointer',
  ],
  [
    'a misaligned address',
    () => () => call(66n),
    'ERR_INVALID_ARGUMENT',
    'pointer: expected a multiple of 4 bytes, got 0x42',
  ],
  [
    'a misaligned address of 16 bits',
    () => () => call(65n, 'bfloat16'),
    'ERR_INVALID_ARGUMENT',
    'pointer: expected a multiple of 2 bytes, got 0x41',
  ],
  ['an unknown dtype', () => () => call(64n, 'int8'), 'ERR_DTYPE', /^dtype: expected one of/],
  ['a negative size', () => () => call(64n, 'float32', [-1]), 'ERR_SHAPE', /^shape: expected/],
  [
    'an owner that is no object',
    () => () => call(64n, 'float32', [1], { owner: 3 }),
    'ERR_INVALID_ARGUMENT',
    'options.owner: expected an object, got 3',
  ],
  [
    'a misspelt option',
    () => () => call(64n, 'float32', [1], { dtype: 'int32' }),
    'ERR_INVALID_ARGUMENT',
    /^options: expected only the keys device, owner/,
  ],
  [
    'an unknown device',
    () => () => call(64n, 'float32', [1], { device: 'gpu' }),
    'ERR_INVALID_ARGUMENT',
    /^options.device: expected cpu or cuda:N/,
  ],
]);

describe.each(DEVICES.filter(name => name !== 'cpu'))('an address that is not memory of %s', device => {
  const at = (pointer: bigint) => () => tensorFromPointer(pointer, 'float32', [4], { device });

  it('is refused: memory of the host', () => {
    using host = zeros([4]);
    expect(at(host.pointer)).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }));
    expect(at(host.pointer)).toThrow(
      `pointer: expected memory of ${device}, got an address that CUDA does not know`,
    );
  });

  it('is refused: memory that was freed', async () => {
    const gone = zeros([4], { device });
    const { pointer } = gone;
    gone.dispose();
    await finished(device);
    expect(at(pointer)).toThrow(/^pointer: expected memory of/);
  });
});

it.each(DEVICES)('an empty tensor may lie anywhere on %s', device => {
  using nothing = tensorFromPointer(0n, 'float32', [0, 4], { device });
  expect(nothing.dataSync()).toEqual(new Float32Array(0));
});

it.each(DEVICES)('a disposed tensor of %s has no address', (device: DeviceName) => {
  const gone = zeros([1], { device });
  gone.dispose();
  expect(() => gone.pointer).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }));
});
