// The event loop never waits for the kernels: timers keep ticking while a long forward runs.

import { expect, it } from 'vitest';
import { MoELayer, type Tensor } from '../../src/index.ts';
import { randomTensor } from './support/work.ts';

const CONFIG = { hidden: 512, intermediate: 1024, experts: 4, topK: 2 };
const LONG_MS = 100;
const GAP_MS = 20;
/** The machine may be busy with other things; an op that blocked the loop would show a gap of its own length every time. */
const ATTEMPTS = 8;

async function milliseconds(forward: () => Tensor): Promise<number> {
  const start = performance.now();
  using y = forward();
  await y.data();
  return performance.now() - start;
}

/** Doubles the tokens until a forward takes clearly longer than {@link LONG_MS}. */
async function longInput(layer: MoELayer): Promise<Tensor> {
  for (let tokens = 128; ; tokens *= 2) {
    const x = randomTensor([tokens, CONFIG.hidden], 1);
    await milliseconds(() => layer.forward(x));
    if ((await milliseconds(() => layer.forward(x))) > 1.5 * LONG_MS) return x;
    x.dispose();
  }
}

/** The longest time between two ticks of a 1 ms interval while `work` runs, from the call itself to its end. */
async function longestGap(work: () => Promise<unknown>): Promise<{ gap: number; ticks: number }> {
  let gap = 0;
  let ticks = 0;
  let last = performance.now();
  const tick = () => {
    const now = performance.now();
    gap = Math.max(gap, now - last);
    last = now;
  };
  const interval = setInterval(() => {
    tick();
    ticks++;
  }, 1);
  await work();
  tick();
  clearInterval(interval);
  return { gap, ticks };
}

it('a 1 ms interval ticks without a gap of 20 ms while a forward of 100 ms runs', async () => {
  using layer = new MoELayer(CONFIG);
  using x = await longInput(layer);
  const seen: string[] = [];
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    let took = 0;
    const { gap, ticks } = await longestGap(async () => {
      took = await milliseconds(() => layer.forward(x));
    });
    seen.push(`${took.toFixed(0)} ms: longest gap ${gap.toFixed(1)} ms, ${ticks} ticks`);
    if (took >= LONG_MS && gap < GAP_MS) return;
  }
  expect.fail(`no forward of ${LONG_MS} ms left the event loop free:\n${seen.join('\n')}`);
});

it('the measure sees a blocked loop: dataSync holds it for as long as the forward runs', async () => {
  using layer = new MoELayer(CONFIG);
  using x = await longInput(layer);
  const { gap } = await longestGap(async () => {
    using y = layer.forward(x);
    y.dataSync();
  });
  expect(gap).toBeGreaterThan(0.5 * LONG_MS);
});
