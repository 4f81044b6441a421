// A mistake that only the kernel can see is thrown at the next wait, once, and the queue works on.

import { afterEach, describe, expect, it } from 'vitest';
import { finished, groupedMatmul, synchronize, tensor, zeros } from '../../src/index.ts';
import { enqueueBadOp } from './support/bad-op.ts';
import { layerDigest } from './support/work.ts';

const rangeError = expect.objectContaining({ name: 'MoeError', code: 'ERR_INDEX_RANGE' });

afterEach(async () => {
  // Every test reports the error it provoked: none is left for the next wait.
  await finished();
});

describe('an op that fails while running', () => {
  it('is reported by finished(), once', async () => {
    enqueueBadOp();
    await expect(finished()).rejects.toEqual(rangeError);
    await finished();
  });

  it('is reported by synchronize(), once', () => {
    enqueueBadOp();
    expect(() => synchronize()).toThrow(rangeError);
    synchronize();
  });

  it('is reported by data() of a tensor that was enqueued after it', async () => {
    enqueueBadOp();
    using later = zeros([2]);
    await expect(later.data()).rejects.toEqual(rangeError);
    expect(await later.data()).toEqual(new Float32Array(2));
  });

  it('is reported by dataSync()', () => {
    enqueueBadOp();
    using later = zeros([2]);
    expect(() => later.dataSync()).toThrow(rangeError);
    expect(later.dataSync()).toEqual(new Float32Array(2));
  });

  it('does not spoil a read that came before it', async () => {
    using earlier = tensor([1, 2], [2]);
    const reading = earlier.data();
    enqueueBadOp();
    expect(await reading).toEqual(new Float32Array([1, 2]));
    await expect(finished()).rejects.toEqual(rangeError);
  });

  it('says in one sentence what it found', async () => {
    enqueueBadOp();
    await expect(finished()).rejects.toThrow(/^\S.*99/);
  });

  it('leaves the queue as good as before', async () => {
    const expected = await layerDigest(1);
    for (let i = 0; i < 3; i++) {
      enqueueBadOp();
      await expect(finished()).rejects.toEqual(rangeError);
      expect(await layerDigest(1)).toBe(expected);
    }
  });

  it('may be followed by others before the wait', async () => {
    for (let i = 0; i < 10; i++) enqueueBadOp();
    await expect(finished()).rejects.toEqual(rangeError);
    await finished();
  });
});

describe.each([
  ['not starting at 0', [1, 2, 4]],
  ['descending', [0, 3, 2, 4]],
  ['beyond R', [0, 2, 400_000]],
  ['negative', [0, -5, 4]],
])('offsets %s', (_, values) => {
  it('are ERR_INDEX_RANGE at the next wait', async () => {
    using rows = zeros([4, 8]);
    using weight = zeros([values.length - 1, 8, 8]);
    using offsets = tensor(values, [values.length], { dtype: 'int32' });
    using _out = groupedMatmul({ rows, weight, offsets }).out;
    await expect(finished()).rejects.toEqual(rangeError);
  });
});
