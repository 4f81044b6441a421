// Passes by turns beside a ruler, on a clock of the test's own: when a case ends, and what it says of a machine that drifts.

import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type Contestant, measureInRounds, type RoundOptions, type RoundTiming } from '../../bench/rounds.ts';

let now = 0;
beforeEach(() => {
  now = 0;
  vi.spyOn(performance, 'now').mockImplementation(() => now);
});
afterEach(() => vi.restoreAllMocks());

/** Takes `ms` each time, as often as the machine is slow; so does its ruler, which takes 1. */
function contestant(ms: number, pace: () => number = () => 1, log: number[] = []): Contestant {
  return {
    pass: {
      prepare: () => {},
      run: () => {
        now += ms * pace();
        log.push(ms);
      },
      clear: () => {},
    },
    ruler: () => {
      now += pace();
      return pace();
    },
  };
}

const OPTIONS: RoundOptions = { minTimeMs: 240, maxTimeMs: 1200, precision: 2 };

async function timings(contestants: readonly Contestant[], options: Partial<RoundOptions> = {}) {
  const found: RoundTiming[] = [];
  for await (const [, timing] of measureInRounds(contestants, { ...OPTIONS, ...options })) found.push(timing);
  return found;
}

describe('a round', () => {
  it('gives each a turn, in one order', async () => {
    const log: number[] = [];
    await timings([contestant(10, undefined, log), contestant(5, undefined, log)]);
    const [warm, rest] = [log.slice(0, 4), log.slice(4)];
    expect(warm).toEqual([10, 10, 5, 5]);
    expect(rest).toEqual(Array.from({ length: 24 }, () => [10, 5, 5]).flat());
  });

  it('ends once the least time has passed, where nothing drifts', async () => {
    const [timing] = await timings([contestant(10)]);
    expect(timing).toEqual({
      ...{ medianMs: 10, lowMs: 10, highMs: 10, p10Ms: 10, p90Ms: 10, minMs: 10, runs: 24 },
      ...{ rulers: 10, rulersLow: 10, rulersHigh: 10 },
    });
  });

  it('takes as many turns as an interval needs, however long they are', async () => {
    const [timing] = await timings([contestant(900)]);
    expect(timing).toMatchObject({ runs: 6, medianMs: 900 });
  });

  it('goes on until the interval is narrow enough', async () => {
    const settled = contestant(10, () => (now < 200 ? 2 : 1));
    const [timing] = await timings([settled], { maxTimeMs: 1e6 });
    expect(timing!.runs).toBeGreaterThan(24);
    expect(timing).not.toHaveProperty('imprecise');
    expect(timing!.highMs - timing!.lowMs).toBeLessThanOrEqual(0.02 * timing!.medianMs);
  });

  it('says so if time runs out before', async () => {
    const [timing] = await timings([contestant(10, () => 1 + now / 1000)]);
    expect(timing!.imprecise).toBe(true);
    expect(timing!.medianMs * timing!.runs).toBeGreaterThan(0.8 * OPTIONS.maxTimeMs);
  });

  it('finds as many rulers on a machine that is slow for a while, or always', async () => {
    const drifting = contestant(12, () => 1 + Math.floor(now / 300));
    const [drifted, slow] = [await timings([drifting]), await timings([contestant(12, () => 3)])];
    for (const [timing] of [drifted, slow]) {
      expect(timing!.rulers).toBeCloseTo(12, 0);
      expect(timing!.rulersHigh! / timing!.rulersLow!).toBeLessThan(1.15);
    }
    expect(drifted[0]!.highMs).toBeGreaterThan(2 * drifted[0]!.lowMs);
  });

  it('has no rulers where there is none', async () => {
    const { pass } = contestant(10);
    expect((await timings([{ pass }]))[0]).not.toHaveProperty('rulers');
  });
});
