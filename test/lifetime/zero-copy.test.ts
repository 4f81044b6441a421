// Tensors over the caller's own buffer: really shared, kept alive while ops need it, refused where it could move.

import { describe, expect, it } from 'vitest';
import {
  finished,
  groupedMatmulWgrad,
  memory,
  type Tensor,
  type TensorSource,
  tensor,
  zeros,
} from '../../src/index.ts';
import { seeded } from '../support/random.ts';
import { collectAll, collectUntil } from './support/collect.ts';
import { expectSame } from './support/same.ts';
import { enqueueLongWork, matmul, randomTensor } from './support/work.ts';

interface GrowableMemory {
  readonly buffer: ArrayBuffer;
  grow(pages: number): void;
}
const { Memory } = Reflect.get(globalThis, 'WebAssembly') as {
  Memory: new (pages: { initial: number }) => GrowableMemory;
};

/** An array over WebAssembly memory, and what detaches it: the way to detach that every supported Node has. */
function detachable(length: number): { array: Float32Array; detach: () => void } {
  const memory = new Memory({ initial: 1 });
  return { array: new Float32Array(memory.buffer, 0, length), detach: () => memory.grow(1) };
}

describe('copy: false', () => {
  it('reads what JavaScript wrote after the tensor was made', async () => {
    const array = new Float32Array([1, 2, 3, 4]);
    using shared = tensor(array, [4], { copy: false });
    array[2] = -7;
    expect(await shared.data()).toEqual(new Float32Array([1, 2, -7, 4]));
    using bits = shared.cast('bfloat16');
    expect(await bits.float32()).toEqual(new Float32Array([1, 2, -7, 4]));
  });

  it('writes where JavaScript reads', async () => {
    const array = new Float32Array(4);
    using shared = tensor(array, [4], { copy: false });
    shared.write(new Float32Array([5, 6, 7, 8]));
    await finished();
    expect(array).toEqual(new Float32Array([5, 6, 7, 8]));
  });

  it('takes gradients in place', async () => {
    const array = new Float32Array(6).fill(100);
    using weight = tensor(array, [1, 2, 3], { copy: false });
    using dOut = tensor([1, 2], [1, 2]);
    using rows = tensor([1, 10, 100], [1, 3]);
    using offsets = tensor([0, 1], [2], { dtype: 'int32' });
    groupedMatmulWgrad({ dOut, rows, offsets, accumulateInto: { weight } });
    await finished();
    expect(array).toEqual(new Float32Array([101, 110, 200, 102, 120, 300]));
  });

  it('shares the window of a view, and nothing beside it', async () => {
    const whole = new Float32Array([9, 1, 2, 3, 9]);
    using shared = tensor(whole.subarray(1, 4), [3], { copy: false });
    expect(await shared.data()).toEqual(new Float32Array([1, 2, 3]));
    shared.write(new Float32Array([4, 5, 6]));
    await finished();
    expect(whole).toEqual(new Float32Array([9, 4, 5, 6, 9]));
  });

  it.each([
    ['float32', new Float32Array([1.5, -2])],
    ['int32', new Int32Array([1, -2])],
    ['bfloat16', new Uint16Array([0x3f80, 0xc000])],
    ['float16', new Uint16Array([0x3c00, 0xc000])],
  ] as const)('works for %s', async (dtype, array: TensorSource) => {
    using shared = tensor(array, [2], { dtype, copy: false });
    expect(await shared.data()).toEqual(array);
    array[0] = array[1]!;
    expect(shared.dataSync()).toEqual(array);
  });

  it('counts the handle, and not the bytes, which are the caller’s', () => {
    const before = memory();
    using _shared = tensor(new Float32Array(1024), [1024], { copy: false });
    expect(memory()).toMatchObject({ tensors: before.tensors + 1, bytes: before.bytes });
  });

  it('leaves the buffer to the caller when disposed', async () => {
    const array = new Float32Array([1, 2]);
    tensor(array, [2], { copy: false }).dispose();
    await finished();
    array[0] = 3;
    using again = tensor(array, [2], { copy: false });
    expect(await again.data()).toEqual(new Float32Array([3, 2]));
  });

  it('gives the same bits as a copy', async () => {
    const random = seeded(1);
    const [a, b] = [random.normals(33 * 65), random.normals(65 * 17)];
    using copied = matmul(tensor(a, [33, 65]), tensor(b, [1, 17, 65]));
    using shared = matmul(tensor(a, [33, 65], { copy: false }), tensor(b, [1, 17, 65], { copy: false }));
    expectSame(await shared.data(), await copied.data());
  });
});

describe('the shared buffer', () => {
  it('may be a SharedArrayBuffer', async () => {
    const array = new Float32Array(new SharedArrayBuffer(8));
    array.set([1, 2]);
    using shared = tensor(array, [2], { copy: false });
    array[1] = 5;
    expect(await shared.data()).toEqual(new Float32Array([1, 5]));
  });

  it('may not be resizable or growable', () => {
    type Resizable = new (length: number, options: { maxByteLength: number }) => ArrayBuffer;
    for (const Buffer of [ArrayBuffer, SharedArrayBuffer] as unknown as Resizable[]) {
      const array = new Float32Array(new Buffer(8, { maxByteLength: 16 }));
      expect(() => tensor(array, [2], { copy: false })).toThrow(
        expect.objectContaining({
          code: 'ERR_INVALID_ARGUMENT',
          message: 'data: expected a buffer of fixed length with copy: false, got a resizable one',
        }),
      );
    }
  });

  it('cannot be transferred away', async () => {
    const array = new Float32Array([1, 2]);
    using shared = tensor(array, [2], { copy: false });
    // Node 20 copies a buffer that is marked untransferable, later versions throw; neither detaches it.
    try {
      structuredClone(array.buffer, { transfer: [array.buffer] });
    } catch (error) {
      expect(error).toMatchObject({ name: 'DataCloneError' });
    }
    expect(await shared.data()).toEqual(new Float32Array([1, 2]));
  });

  it('is missed where it was detached: ERR_DETACHED, with the name of the argument', async () => {
    const { array, detach } = detachable(6);
    using shared = tensor(array, [2, 3], { copy: false });
    using weight = zeros([1, 4, 3]);
    detach();
    const detachedError = (name: string) =>
      expect.objectContaining({
        code: 'ERR_DETACHED',
        message: `${name}: expected a tensor whose shared buffer is intact, got one whose buffer was detached`,
      });
    expect(() => matmul(shared, weight)).toThrow(detachedError('rows'));
    expect(() => shared.dataSync()).toThrow(detachedError('tensor'));
    expect(() => shared.write(new Float32Array(6))).toThrow(detachedError('tensor'));
    await expect(shared.data()).rejects.toEqual(detachedError('tensor'));
  });

  it('is refused when it is detached already, shared or copied', () => {
    const { array, detach } = detachable(2);
    detach();
    const options = [{ copy: false }, { copy: true }];
    for (const option of options) {
      expect(() => tensor(array, [2], option)).toThrow(expect.objectContaining({ code: 'ERR_DETACHED' }));
    }
    using target = zeros([2]);
    expect(() => target.write(array)).toThrow(expect.objectContaining({ code: 'ERR_DETACHED' }));
  });

  it('lives as long as pending ops need it, whatever JavaScript forgets', async () => {
    const [tokens, width] = [512, 1024];
    using weight = randomTensor([1, 64, width], 2);
    const values = seeded(3).normals(tokens * width);
    using expected = matmul(tensor(values, [tokens, width]), weight);
    const bits = await expected.data();
    const enqueueAndForget = () => {
      using rows = tensor(values.slice(), [tokens, width], { copy: false });
      return matmul(rows, weight);
    };
    enqueueLongWork();
    using out = enqueueAndForget();
    await collectAll();
    // Fresh buffers of the same size would land where the forgotten one was.
    const others = Array.from({ length: 8 }, () => new Float32Array(tokens * width).fill(Number.NaN));
    expectSame(await out.data(), bits);
    expect(others).toHaveLength(8);
  });

  it.each([
    ['disposed', (shared: Tensor) => shared.dispose()],
    ['dropped', () => {}],
  ])('is let go when the tensor is %s and its ops have run', async (_, end) => {
    const share = () => {
      const array = new Float32Array(1024);
      const shared = tensor(array, [1, 1024], { copy: false });
      shared.cast('float16').dispose();
      end(shared);
      return new WeakRef(array.buffer);
    };
    const buffer = share();
    const letGo = await collectUntil(async () => {
      // Buffers are let go on this thread, when it next waits for the queue.
      await finished();
      return buffer.deref() === undefined;
    });
    expect(letGo).toBe(true);
  });
});
