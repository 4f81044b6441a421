// What dispose() promises: memory is given back at once or as soon as pending ops allow, exactly once, and using it is an error.

import { describe, expect, it } from 'vitest';
import {
  dispatch,
  finished,
  groupedMatmul,
  MoELayer,
  memory,
  route,
  type Tensor,
  tensor,
  zeros,
} from '../../src/index.ts';
import { expectSame } from './support/same.ts';
import { enqueueLongWork, matmul, randomTensor, SMALL_LAYER } from './support/work.ts';

const disposedError = (name: string) =>
  expect.objectContaining({
    code: 'ERR_DISPOSED',
    message: `${name}: expected a live tensor, got a disposed one`,
  });

function disposed(shape: readonly number[]): Tensor {
  const out = zeros(shape);
  out.dispose();
  return out;
}

describe('dispose', () => {
  it('gives the memory back once, however often it is called', async () => {
    await finished();
    const before = memory();
    const held = zeros([1024]);
    expect(memory().tensors).toBe(before.tensors + 1);
    expect(memory().bytes).toBeGreaterThanOrEqual(before.bytes + 4096);
    held.dispose();
    held.dispose();
    held[Symbol.dispose]();
    expect(held.disposed).toBe(true);
    expect(memory().tensors).toBe(before.tensors);
    await finished();
    expect(memory().bytes).toBe(before.bytes);
  });

  it('happens at the end of a using block', () => {
    const before = memory().tensors;
    {
      using held = zeros([4]);
      expect(held.disposed).toBe(false);
      expect(memory().tensors).toBe(before + 1);
    }
    expect(memory().tensors).toBe(before);
  });

  it('leaves dtype and shape readable', () => {
    const gone = disposed([2, 3]);
    expect([gone.dtype, gone.shape, gone.size]).toEqual(['float32', [2, 3], 6]);
    expect(String(gone)).toContain('disposed');
  });
});

describe('a disposed tensor', () => {
  const gone = disposed([2, 3]);

  it('refuses to be read, written and cast', async () => {
    await expect(gone.data()).rejects.toEqual(disposedError('tensor'));
    await expect(gone.float32()).rejects.toEqual(disposedError('tensor'));
    expect(() => gone.dataSync()).toThrow(disposedError('tensor'));
    expect(() => gone.write(new Float32Array(6))).toThrow(disposedError('tensor'));
    expect(() => gone.cast('bfloat16')).toThrow(disposedError('tensor'));
  });

  it('is named by every op it is given to', () => {
    using weight = zeros([1, 4, 3]);
    using offsets = tensor([0, 2], [2], { dtype: 'int32' });
    expect(() => groupedMatmul({ rows: gone, weight, offsets })).toThrow(disposedError('rows'));
    expect(() => route({ logits: gone, topK: 1 })).toThrow(disposedError('logits'));
    expect(() => dispatch({ indices: gone, experts: 4 })).toThrow(disposedError('indices'));
    using layer = new MoELayer({ ...SMALL_LAYER, hidden: 3 });
    expect(() => layer.forward(gone)).toThrow(disposedError('x'));
  });

  it('leaves nothing behind in an op that refuses it', () => {
    const before = memory().tensors;
    using layer = new MoELayer(SMALL_LAYER);
    const parameters = Object.keys(layer.parameters).length;
    const gone = disposed([4, SMALL_LAYER.hidden]);
    expect(() => layer.forward(gone)).toThrow(disposedError('x'));
    expect(() => gone.cast('bfloat16')).toThrow(disposedError('tensor'));
    expect(memory().tensors).toBe(before + parameters);
  });
});

describe('a disposed layer', () => {
  it('refuses to run, and may be disposed again', () => {
    const layer = new MoELayer(SMALL_LAYER);
    layer.dispose();
    layer.dispose();
    using x = zeros([4, SMALL_LAYER.hidden]);
    expect(() => layer.forward(x)).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }));
  });

  it('refuses a backward pass through what it saved', () => {
    const layer = new MoELayer(SMALL_LAYER);
    using x = randomTensor([4, SMALL_LAYER.hidden], 1);
    const { y, saved } = layer.forwardTrain(x);
    saved.dispose();
    saved.dispose();
    expect(() => layer.backward(saved, y)).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }));
    y.dispose();
    layer.dispose();
  });
});

describe('disposing what a pending op uses', () => {
  it('does not change its result', async () => {
    const rows = randomTensor([64, 48], 1);
    const weight = randomTensor([1, 32, 48], 2);
    using expected = matmul(rows, weight);
    const bits = await expected.data();
    enqueueLongWork();
    using out = matmul(rows, weight);
    rows.dispose();
    weight.dispose();
    // New tensors of the same size would be given the same memory, were it free already.
    const others = Array.from({ length: 16 }, (_, seed) => randomTensor([64, 48], 100 + seed));
    expectSame(await out.data(), bits);
    for (const other of others) other.dispose();
  });

  it('does not change a result that is being read', async () => {
    const source = randomTensor([4096], 3);
    const expected = source.dataSync();
    enqueueLongWork();
    const reading = source.data();
    source.dispose();
    expectSame(await reading, expected);
  });

  it('holds for a whole layer, forward and backward', async () => {
    const run = async (wait: boolean) => {
      const layer = new MoELayer(SMALL_LAYER, { seed: 5 });
      const x = randomTensor([32, SMALL_LAYER.hidden], 6);
      if (!wait) enqueueLongWork();
      const { y, saved } = layer.forwardTrain(x);
      const { dx, gradients } = layer.backward(saved, y);
      if (wait) await finished();
      for (const used of [layer, x, y, saved]) used.dispose();
      const results = [dx, ...Object.values(gradients)];
      const bits = await Promise.all(results.map(result => result.data()));
      for (const result of results) result.dispose();
      return bits;
    };
    expect(await run(false)).toEqual(await run(true));
  });
});
