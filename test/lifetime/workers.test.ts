// Worker threads: each has a queue of its own over the same kernels, and may end at any moment.

import { describe, expect, it } from 'vitest';
import { finished, memory, trimMemory } from '../../src/index.ts';
import { enqueueBadOp } from './support/bad-op.ts';
import { collectAll } from './support/collect.ts';
import { runChild } from './support/run-child.ts';
import { layerDigest } from './support/work.ts';
import { startWorker } from './support/workers.ts';

const MEBIBYTE = 2 ** 20;

describe('several workers at once', () => {
  it('compute the bits that the main thread computes', async () => {
    const seeds = [1, 2, 3, 4, 5];
    const workers = Array.from({ length: 4 }, () => startWorker({ name: 'digests', seeds }));
    const here: string[] = [];
    for (const seed of seeds) here.push(await layerDigest(seed));
    expect(new Set(here).size).toBe(seeds.length);
    for (const { message, exit } of workers) {
      expect(await message).toEqual(here);
      expect(await exit).toBe(0);
    }
  });

  it('keep their errors to themselves', async () => {
    const bad = startWorker({ name: 'bad op' });
    const good = startWorker({ name: 'digests', seeds: [1] });
    expect(await bad.message).toBe('ERR_INDEX_RANGE');
    expect(await good.message).toEqual([await layerDigest(1)]);
    await finished();
    enqueueBadOp();
    const other = startWorker({ name: 'digests', seeds: [1] });
    const digests = await other.message;
    await expect(finished()).rejects.toMatchObject({ code: 'ERR_INDEX_RANGE' });
    expect(digests).toEqual([await layerDigest(1)]);
    await Promise.all([bad.exit, good.exit, other.exit]);
  });
});

describe('a worker that ends', () => {
  it('may be terminated with ops pending, again and again', async () => {
    const expected = await layerDigest(7);
    for (let i = 0; i < 6; i++) {
      const { worker, message, exit } = startWorker({ name: 'long work' });
      expect(await message).toBe('enqueued');
      await worker.terminate();
      expect(await exit).toBe(1);
      expect(await layerDigest(7)).toBe(expected);
    }
  });

  it('may be terminated at any moment of its start', async () => {
    for (let i = 0; i < 6; i++) {
      const { worker, message, exit } = startWorker({ name: 'long work' });
      message.catch(() => 'ended before it could post');
      await new Promise(resolve => setTimeout(resolve, 60 * i));
      await worker.terminate();
      await exit;
    }
  });

  it('gives back the tensors it never disposed', async () => {
    const hoard = async () => {
      const { message, exit } = startWorker({ name: 'hoard', mebibytes: 64 });
      expect(await message).toBe(64);
      expect(await exit).toBe(0);
    };
    const tensors = memory().tensors;
    await hoard();
    trimMemory();
    await collectAll();
    const before = process.memoryUsage().rss;
    for (let i = 0; i < 4; i++) await hoard();
    trimMemory();
    await collectAll();
    expect(memory().tensors).toBe(tensors);
    // 256 MiB if nothing came back.
    expect(process.memoryUsage().rss - before).toBeLessThan(100 * MEBIBYTE);
  });
});

it('a worker may load the package before the main thread does', async () => {
  const { code, stdout, stderr } = await runChild('worker-first');
  expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: 'same bits\n', stderr: '' });
});
