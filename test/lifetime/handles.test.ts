// Native handles serve one tensor after the other, and V8 hears of native memory in steps: neither shows, but in time.

import { describe, expect, it } from 'vitest';
import { finished, memory, type Tensor, tensor, zeros } from '../../src/index.ts';
import { collectAll } from './support/collect.ts';

const MEBIBYTE = 2 ** 20;

describe('a handle that is used again', () => {
  it('is nothing to the tensor that had it before', async () => {
    const before = memory();
    const gone = tensor([1, 2], [2]);
    gone.dispose();
    using next = tensor([3, 4], [2]);
    expect(gone.disposed).toBe(true);
    expect(() => gone.dataSync()).toThrow(/disposed/);
    gone.dispose();
    expect(memory().tensors).toBe(before.tensors + 1);
    expect(await next.data()).toEqual(new Float32Array([3, 4]));
  });

  it('belongs to one tensor at a time', async () => {
    const make = (count: number, first: number) =>
      Array.from({ length: count }, (_, i) => tensor([first + i], [1]));
    for (const gone of make(1000, 0)) gone.dispose();
    const live = make(1000, 1);
    expect(live.map(each => each.dataSync()[0])).toEqual(live.map((_, i) => i + 1));
    for (const each of live) each.dispose();
  });

  it('is blank after an error', () => {
    const before = memory();
    for (let i = 0; i < 3; i++) {
      expect(() => zeros([2 ** 31 - 1, 2 ** 13])).toThrow(
        expect.objectContaining({ code: 'ERR_OUT_OF_MEMORY' }),
      );
    }
    expect(memory().tensors).toBe(before.tensors);
    expect(memory().bytes).toBe(before.bytes);
    using next = zeros([3]);
    expect(next.dataSync()).toEqual(new Float32Array(3));
  });
});

describe('memory of many tensors', () => {
  /** Bytes of one. */
  const EACH = 2 ** 14;

  it('is counted to the byte', async () => {
    await finished();
    const before = memory();
    const held: Tensor[] = [];
    for (let i = 1; i <= 500; i++) {
      held.push(zeros([EACH / 4]));
      expect(memory().bytes).toBe(before.bytes + i * EACH);
    }
    for (const each of held) each.dispose();
    expect(memory().bytes).toBe(before.bytes);
  });

  it('is reported to V8, which collects by itself where nothing is disposed', async () => {
    await collectAll();
    let peak = 0;
    for (let i = 0; i < 1500; i++) {
      // Half of what is left unsaid at most.
      zeros([MEBIBYTE / 8]);
      await finished();
      // Finalisers run between turns of the event loop.
      if (i % 8 === 0) await new Promise(setImmediate);
      peak = Math.max(peak, memory().bytes);
    }
    // 750 MiB were allocated behind handles that are nothing to V8's own heap.
    expect(peak).toBeLessThan(400 * MEBIBYTE);
    await collectAll();
  });
});
