// Results that are there at once: promises resolve without a turn of the event loop, but never keep it waiting.

import { afterEach, beforeEach, describe, expect, it, type MockInstance, vi } from 'vitest';
import { MoELayer, synchronize, type Tensor, tensor } from '../../src/index.ts';
import { native } from '../../src/native.ts';
import { enqueueBadOp } from './support/bad-op.ts';
import { enqueueLongWork, randomTensor, SMALL_LAYER } from './support/work.ts';

let settled: MockInstance<typeof native.readSettled>;
beforeEach(() => {
  settled = vi.spyOn(native, 'readSettled');
});
afterEach(() => {
  settled.mockRestore();
  synchronize();
});

/** How many reads were answered at once. */
const answered = () => settled.mock.results.filter(({ value }) => value === true).length;

const nextTurn = () => new Promise(setImmediate);

describe('data() of a tensor that is ready', () => {
  it('resolves before the event loop turns', async () => {
    using ready = tensor([1, 2, 3], [3]);
    synchronize();
    await nextTurn();
    let turned = false;
    setImmediate(() => {
      turned = true;
    });
    expect(await ready.data()).toEqual(new Float32Array([1, 2, 3]));
    expect(turned).toBe(false);
    expect(answered()).toBe(1);
  });

  it('lets the event loop turn in a loop that does nothing but await', async () => {
    using ready = tensor([1, 2, 3], [3]);
    synchronize();
    let turns = 0;
    let running = true;
    const count = () => {
      turns++;
      if (running) setImmediate(count);
    };
    setImmediate(count);
    const until = performance.now() + 200;
    while (performance.now() < until) await ready.data();
    running = false;
    expect(answered()).toBeGreaterThan(1000);
    // One in a millisecond, on a machine that is never interrupted.
    expect(turns).toBeGreaterThan(20);
  });

  it('rejects with what an op before it was refused for', async () => {
    using ready = tensor([1, 2, 3], [3]);
    enqueueBadOp();
    await expect(ready.data()).rejects.toMatchObject({ code: 'ERR_INDEX_RANGE' });
    expect(await ready.data()).toEqual(new Float32Array([1, 2, 3]));
  });
});

it('reads resolve in the order of their calls', async () => {
  using ready = tensor([1, 2, 3], [3]);
  const order: string[] = [];
  enqueueLongWork();
  const first = ready.data().then(() => order.push('first'));
  await nextTurn();
  // All has run, but nobody has been told yet.
  synchronize();
  const second = ready.data().then(() => order.push('second'));
  await Promise.all([first, second]);
  expect(order).toEqual(['first', 'second']);
});

it('large tensors are copied by the worker', async () => {
  using large = randomTensor([2 ** 15], 1);
  synchronize();
  await nextTurn();
  expect((await large.data()).length).toBe(2 ** 15);
  expect(settled).not.toHaveBeenCalled();
});

it('nobody lends a hand with long work', async () => {
  using small = tensor([1], [1]);
  for (let call = 0; call < 3; call++) enqueueLongWork();
  synchronize();
  await nextTurn();
  enqueueLongWork();
  const began = performance.now();
  const reading = small.data();
  expect(performance.now() - began).toBeLessThan(15);
  expect(answered()).toBe(0);
  expect(await reading).toEqual(new Float32Array([1]));
});

it('a small layer is answered at once, with the same bits', async () => {
  using layer = new MoELayer(SMALL_LAYER, { seed: 2 });
  using x = randomTensor([1, SMALL_LAYER.hidden], 3);
  const results: Tensor[] = [];
  const forward = async () => {
    await nextTurn();
    const y = layer.forward(x);
    results.push(y);
    return y.data();
  };
  const expected = await forward();
  for (let call = 0; call < 300; call++) expect(await forward()).toEqual(expected);
  // All but the first few, and those during which the machine was busy with other things.
  expect(answered()).toBeGreaterThan(30);
  for (const y of results) y.dispose();
});
