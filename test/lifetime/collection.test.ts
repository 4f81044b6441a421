// The garbage collector as the last resort: what is dropped without dispose() comes back, and V8 knows how much that is.

import { describe, expect, it } from 'vitest';
import { finished, MoELayer, memory, type Tensor, trimMemory, zeros } from '../../src/index.ts';
import { collectAll, collectUntil } from './support/collect.ts';
import { randomTensor, SMALL_LAYER } from './support/work.ts';

const MEBIBYTE = 2 ** 20;

/** Its own function, so that no local of the test keeps the tensors alive. */
function drop(count: number, elements: number): void {
  for (let i = 0; i < count; i++) zeros([elements]);
}

describe('tensors dropped without dispose', () => {
  it('are collected, with their memory', async () => {
    await collectAll();
    const before = memory();
    drop(100, 1024);
    expect(memory().tensors).toBe(before.tensors + 100);
    await finished();
    expect(await collectUntil(() => memory().tensors === before.tensors)).toBe(true);
    expect(memory().bytes).toBe(before.bytes);
  });

  it('are collected while ops on them are pending, after which the results are right', async () => {
    await collectAll();
    const before = memory().tensors;
    const outputs: Tensor[] = [];
    for (let i = 0; i < 50; i++) outputs.push(randomTensor([256], i).cast('bfloat16'));
    await collectAll();
    for (const [i, out] of outputs.entries()) {
      using expected = randomTensor([256], i);
      using rounded = expected.cast('bfloat16');
      expect(await out.data()).toEqual(await rounded.data());
      out.dispose();
    }
    expect(await collectUntil(() => memory().tensors === before)).toBe(true);
  });

  it('are not collected again after dispose', async () => {
    await collectAll();
    const before = memory();
    for (let i = 0; i < 100; i++) zeros([64]).dispose();
    await finished();
    await collectAll();
    expect(memory().tensors).toBe(before.tensors);
    expect(memory().bytes).toBe(before.bytes);
  });
});

it('native memory is reported to V8, which collects by itself in a loop that awaits and never disposes', async () => {
  const each = 4 * MEBIBYTE;
  let peak = 0;
  for (let i = 0; i < 600; i++) {
    zeros([each / 4]);
    await finished();
    // Finalisers run between turns of the event loop.
    if (i % 8 === 0) await new Promise(setImmediate);
    peak = Math.max(peak, memory().bytes);
  }
  // 2400 MiB were allocated behind handles that are nothing to V8's own heap.
  expect(peak).toBeLessThan(800 * MEBIBYTE);
  await collectAll();
});

describe('10,000 layer calls', () => {
  const CALLS = 10_000;
  const TOKENS = 32;
  /** y alone: what a leak of one tensor per call would come to, less the other tensors and their handles. */
  const LEAK = CALLS * TOKENS * SMALL_LAYER.hidden * 4;

  async function callLayer(
    layer: MoELayer,
    x: Tensor,
    calls: number,
    use: (y: Tensor) => void,
  ): Promise<void> {
    for (let i = 0; i < calls; i++) {
      use(layer.forward(x));
      if (i % 100 === 99) await finished();
    }
  }

  it('with dispose keep the resident memory flat', async () => {
    using layer = new MoELayer(SMALL_LAYER);
    using x = randomTensor([TOKENS, SMALL_LAYER.hidden], 1);
    const dispose = (y: Tensor) => y.dispose();
    await callLayer(layer, x, 1000, dispose);
    await collectAll();
    const before = { rss: process.memoryUsage().rss, ...memory() };
    await callLayer(layer, x, CALLS, dispose);
    await collectAll();
    const after = { rss: process.memoryUsage().rss, ...memory() };
    expect(after.tensors).toBe(before.tensors);
    expect(after.bytes).toBe(before.bytes);
    // 78 MiB if only y leaked; V8's own heap moves by a few MiB.
    expect(LEAK).toBeGreaterThan(75 * MEBIBYTE);
    expect(after.rss - before.rss).toBeLessThan(24 * MEBIBYTE);
  });

  it('with a backward pass and dispose keep it flat too', async () => {
    using layer = new MoELayer(SMALL_LAYER);
    using x = randomTensor([TOKENS, SMALL_LAYER.hidden], 1);
    const step = () => {
      const { y, saved } = layer.forwardTrain(x);
      const { dx, gradients } = layer.backward(saved, x);
      for (const made of [y, saved, dx, ...Object.values(gradients)]) made.dispose();
    };
    const run = async (steps: number) => {
      for (let i = 0; i < steps; i++) {
        step();
        if (i % 100 === 99) await finished();
      }
      await collectAll();
    };
    await run(200);
    const before = { rss: process.memoryUsage().rss, ...memory() };
    await run(2000);
    expect(memory().tensors).toBe(before.tensors);
    // The gradients of the experts alone are 192 KiB a step.
    expect(process.memoryUsage().rss - before.rss).toBeLessThan(24 * MEBIBYTE);
  });

  it('without dispose are collected', async () => {
    using layer = new MoELayer(SMALL_LAYER);
    using x = randomTensor([TOKENS, SMALL_LAYER.hidden], 1);
    await collectAll();
    const before = memory();
    let peak = 0;
    await callLayer(layer, x, CALLS, () => {
      peak = Math.max(peak, memory().bytes);
    });
    expect(await collectUntil(() => memory().tensors === before.tensors)).toBe(true);
    expect(memory().bytes).toBe(before.bytes);
    trimMemory();
    expect(memory().pooledBytes).toBe(0);
  });
});
