// Timers count the device's time between two places in its order.

import { performance } from 'node:perf_hooks';
import { describe, expect, it } from 'vitest';
import { dispatch, finished, groupedMatmul, startTimer, tensor, zeros } from '../../src/index.ts';
import { DEVICES } from '../support/targets.ts';

describe.each(DEVICES)('on %s', device => {
  function enqueueWork(): void {
    using rows = zeros([192, 64], { device });
    using weight = zeros([1, 64, 64], { device });
    using offsets = tensor([0, 192], [2], { dtype: 'int32', device });
    groupedMatmul({ rows, weight, offsets }).out.dispose();
  }

  it('counts what lies between, and no more than the host', async () => {
    await finished(device);
    const before = performance.now();
    const timer = startTimer(device);
    enqueueWork();
    const elapsed = await timer.stop();
    expect(elapsed).toBeGreaterThan(0);
    expect(elapsed).toBeLessThanOrEqual(performance.now() - before + 0.1);
    expect(timer.device).toBe(device);
  });

  it('does not count what came before or after', async () => {
    const whole = startTimer(device);
    for (let i = 0; i < 20; i++) enqueueWork();
    const between = startTimer(device);
    const nothing = between.stop();
    for (let i = 0; i < 20; i++) enqueueWork();
    const all = whole.stop();
    expect(await nothing).toBeLessThan((await all) / 4);
  });

  it('may be stopped again, later', async () => {
    const timer = startTimer(device);
    const first = timer.stop();
    enqueueWork();
    expect(await timer.stop()).toBeGreaterThan(await first);
  });

  it('stops at once where the caller waits', () => {
    const timer = startTimer(device);
    const nothing = startTimer(device).stopSync();
    enqueueWork();
    expect(timer.stopSync()).toBeGreaterThan(nothing);
    using indices = tensor([99], [1, 1], { dtype: 'int32', device });
    for (const part of Object.values(dispatch({ indices, experts: 4 }))) part.dispose();
    expect(() => timer.stopSync()).toThrow(expect.objectContaining({ code: 'ERR_INDEX_RANGE' }));
  });

  it('rejects with what an op failed with', async () => {
    const timer = startTimer(device);
    using indices = tensor([99], [1, 1], { dtype: 'int32', device });
    for (const part of Object.values(dispatch({ indices, experts: 4 }))) part.dispose();
    await expect(timer.stop()).rejects.toEqual(expect.objectContaining({ code: 'ERR_INDEX_RANGE' }));
    expect(await timer.stop()).toBeGreaterThan(0);
  });
});

it('needs a device', () => {
  expect(() => startTimer('gpu' as never)).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }));
});
