// Graphs: captured ops run when they are replayed, give what they give uncaptured, and own the memory that they need.

import { afterEach, describe, expect, it } from 'vitest';
import {
  capture,
  type DeviceName,
  dispatch,
  finished,
  type Graph,
  MoELayer,
  memory,
  moeBackward,
  moeForward,
  ones,
  startTimer,
  synchronize,
  Tensor,
  tensor,
  tensorFromPointer,
  zeros,
} from '../../src/index.ts';
import { collectAll, collectUntil } from '../lifetime/support/collect.ts';
import { encode, representable } from '../support/dtypes.ts';
import { layerInputs, uploadLayer } from '../support/layer.ts';
import { seeded } from '../support/random.ts';
import { DEVICES, TARGETS } from '../support/targets.ts';
import { downloadBytes, upload } from '../support/tensors.ts';

const [T, H, I, E, K] = [11, 24, 20, 4, 2];
const captureError = expect.objectContaining({ name: 'MoeError', code: 'ERR_CAPTURE' });

const disposables: Disposable[] = [];
afterEach(() => {
  for (const each of disposables.splice(0).reverse()) each[Symbol.dispose]();
});
/** Disposed after the test. */
function kept<T extends Disposable>(value: T): T {
  disposables.push(value);
  return value;
}
const captured = <T>(device: DeviceName, fn: () => T): Graph<T> => kept(capture(device, fn));

/** Every tensor of a result, as bytes; disposes them. */
const bytesOf = (result: unknown) => downloadBytes(result);
/** The same without disposing: what a graph fills again and again. */
function peek(result: unknown): unknown {
  if (result instanceof Tensor) return downloadBytes(result.reshape(result.shape));
  if (typeof result !== 'object' || result === null) return result;
  return Object.fromEntries(Object.entries(result).map(([key, value]) => [key, peek(value)]));
}

describe.each(TARGETS)('$device $dtype', ({ device, dtype }) => {
  const values = (seed: number, count: number) =>
    encode(dtype, representable(dtype, seeded(seed).normals(count)));

  it('replays a fused layer, forward and backward, on inputs written in place', () => {
    const inputs = layerInputs(
      { tokens: T, hidden: H, intermediate: I, experts: E, topK: K, bias: true },
      dtype,
    );
    const args = uploadLayer(inputs, device);
    const dy = upload(inputs.dy, [T, H], dtype, device);
    const pass = () => {
      const { y, routing, saved } = moeForward({ ...args, save: 'activations' });
      return { y, routing, ...moeBackward({ dy, saved: saved! }) };
    };
    const graph = captured(device, pass);
    for (const seed of [1, 2, 3]) {
      args.x.write(values(seed, T * H) as Float32Array);
      dy.write(values(seed + 10, T * H) as Float32Array);
      graph.replay();
      expect(peek(graph.result)).toEqual(bytesOf(pass()));
    }
  });

  it('replays a MoELayer, forward and backward', () => {
    const layer = kept(
      new MoELayer({ hidden: H, intermediate: I, experts: E, topK: K, dtype, device }, { seed: 2 }),
    );
    const x = kept(zeros([T, H], { dtype, device }));
    const pass = () => {
      const { y, saved } = layer.forwardTrain(x);
      const { dx, gradients } = layer.backward(saved, y);
      saved.dispose();
      return { y, dx, gradients };
    };
    const graph = captured(device, pass);
    for (const seed of [4, 5]) {
      x.write(values(seed, T * H) as Float32Array);
      graph.replay();
      expect(peek(graph.result)).toEqual(bytesOf(pass()));
    }
  });
});

describe.each(DEVICES)('on %s', device => {
  const counted = () => memory().tensors;

  it('runs nothing before a replay, and everything at each', () => {
    const sum = kept(zeros([3], { device }));
    const x = kept(tensor([1, 2, 3], [1, 3], { device }));
    const layer = kept(
      new MoELayer({ hidden: 3, intermediate: 2, experts: 1, topK: 1, device }, { seed: 1 }),
    );
    const graph = captured(device, () => layer.forward(x));
    using expected = layer.forward(x);
    expect(graph.result.dataSync()).not.toEqual(expected.dataSync());
    graph.replay();
    expect(graph.result.dataSync()).toEqual(expected.dataSync());
    expect(sum.dataSync()).toEqual(new Float32Array(3));
  });

  it('keeps what it uses when the tensors are disposed', async () => {
    const x = tensor([1, 2, 3], [3], { device });
    const { pointer } = x;
    const graph = captured(device, () => x.cast('bfloat16'));
    x.dispose();
    await finished(device);
    using again = tensorFromPointer(pointer, 'float32', [3], { device });
    again.write(Float32Array.of(4, 5, 6));
    // Were the memory free, these would be given it.
    for (let i = 0; i < 8; i++) kept(ones([3], { device }));
    graph.replay();
    using result = graph.result.cast('float32');
    expect(result.dataSync()).toEqual(Float32Array.of(4, 5, 6));
  });

  it('keeps the owner of borrowed memory until it is disposed', async () => {
    let gone = false;
    const watched = new FinalizationRegistry<undefined>(() => {
      gone = true;
    });
    const graph = (() => {
      const room = kept(ones([64], { device }));
      const owner = {};
      watched.register(owner, undefined);
      using x = tensorFromPointer(room.pointer, 'float32', [64], { device, owner });
      return captured(device, () => x.cast('float16'));
    })();
    graph.replay();
    await finished(device);
    await collectAll();
    await finished(device);
    expect(gone).toBe(false);
    graph.dispose();
    const letGo = async () => {
      await finished(device);
      return gone;
    };
    expect(await collectUntil(letGo)).toBe(true);
  });

  it('leaves its results valid when it is disposed, and gives the rest back', async () => {
    const x = kept(tensor([1, 2, 3], [3], { device }));
    const graph = captured(device, () => x.cast('float16').cast('float32'));
    graph.replay();
    graph.replay();
    graph.dispose();
    graph.dispose();
    expect(graph.disposed).toBe(true);
    expect(() => graph.replay()).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }));
    expect(graph.result.dataSync()).toEqual(Float32Array.of(1, 2, 3));
    graph.result.dispose();
    await finished(device);
  });

  it('uses memory that the function disposes for the ops after', () => {
    const x = kept(ones([1024], { device }));
    const graph = captured(device, () => {
      let last = x.cast('float32');
      const addresses = new Set<bigint>();
      for (let i = 0; i < 6; i++) {
        const next = last.cast('float32');
        addresses.add(next.pointer);
        last.dispose();
        last = next;
      }
      return { last, addresses: addresses.size };
    });
    kept(graph.result.last);
    if (device !== 'cpu') expect(graph.result.addresses).toBe(2);
    x.write(new Float32Array(1024).fill(7));
    graph.replay();
    expect(graph.result.last.dataSync()).toEqual(new Float32Array(1024).fill(7));
  });

  it('reports bad indices of a replay at the next wait, once for each', async () => {
    const indices = kept(tensor([0, 1], [2, 1], { dtype: 'int32', device }));
    const graph = captured(device, () => dispatch({ indices, experts: 4 }));
    for (const part of Object.values(graph.result)) kept(part);
    graph.replay();
    await finished(device);
    indices.write(Int32Array.of(0, 99));
    graph.replay();
    graph.replay();
    await expect(finished(device)).rejects.toThrow('dispatch: indices: expected values from 0 to 3, got 99');
    await finished(device);
    graph.replay();
    indices.write(Int32Array.of(0, 1));
    graph.replay();
    await expect(finished(device)).rejects.toThrow(/got 99/);
    expect(graph.result.offsets.dataSync()).toEqual(Int32Array.of(0, 1, 2, 2, 2));
  });

  it('refuses what a capture cannot hold, and works on', async () => {
    const x = kept(ones([4], { device }));
    const earlier = captured(device, () => x.cast('float32'));
    kept(earlier.result);
    const refused: [string, () => unknown][] = [
      ['data', () => x.dataSync()],
      ['write', () => x.write(new Float32Array(4))],
      ['write', () => tensor([1], [1], { device })],
      ['wait', () => synchronize(device)],
      ['timer', () => startTimer(device)],
      ['timer', () => timer.stopSync()],
      ['capture', () => capture(device, () => 0)],
      ['replay', () => earlier.replay()],
    ];
    const timer = startTimer(device);
    const before = counted();
    for (const [name, call] of refused) {
      const message = `${name}: expected a call outside of capture(), got one within it`;
      expect(() => capture(device, call)).toThrow(expect.objectContaining({ code: 'ERR_CAPTURE', message }));
    }
    const pending: Promise<unknown>[] = [];
    captured(device, () => {
      pending.push(x.data(), finished(device));
      for (const each of pending) each.catch(() => {});
    });
    for (const each of pending) await expect(each).rejects.toEqual(captureError);
    expect(counted()).toBe(before);
    expect(await x.data()).toEqual(new Float32Array(4).fill(1));
  });

  it('ends with an exception of the function, whose ops never run', async () => {
    const x = kept(ones([4], { device }));
    const y = kept(zeros([4], { device }));
    const failing = () => {
      x.cast('float32').dispose();
      x.dispose();
      throw new RangeError('mine');
    };
    expect(() => capture(device, failing)).toThrow(new RangeError('mine'));
    await finished(device);
    const graph = captured(device, () => y.cast('float32'));
    graph.replay();
    expect(kept(graph.result).dataSync()).toEqual(new Float32Array(4));
  });

  it('refuses a function that is none, or asynchronous', async () => {
    const error = expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' });
    expect(() => capture(device, 3 as never)).toThrow(error);
    expect(() => capture(device, async () => 0)).toThrow(error);
    expect(() => capture('gpu' as never, () => 0)).toThrow(error);
    await finished(device);
  });

  it('may be empty', async () => {
    const graph = captured(device, () => 'nothing');
    graph.replay();
    await finished(device);
    expect(graph.result).toBe('nothing');
  });
});
