// Verdicts over synthetic timings: noise is never slower, what became slower always is.

import { describe, expect, it } from 'vitest';
import type { BenchResult } from '../../bench/result.ts';
import { estimateMedian } from '../../bench/statistics.ts';
import { besideBaseline, judge, type Verdict } from '../../bench/verdict.ts';
import { RESULT } from '../support/bench-result.ts';
import { seeded } from '../support/random.ts';

const TOLERANCE = 0.05;
const TRIALS = 1000;
const NOISE = 0.02;
const RUNS = 20;

/** The verdicts of trials in which the second timing takes `factor` times as long as the first. */
function verdicts(factor: number): Set<Verdict> {
  const random = seeded(7);
  const timing = (pace: number) =>
    estimateMedian(Array.from(random.normals(RUNS, NOISE), x => pace * (1 + x)));
  return new Set(
    Array.from({ length: TRIALS }, () => {
      const before = timing(3);
      return judge(timing(3 * factor), before, TOLERANCE);
    }),
  );
}

describe('a verdict', () => {
  it('is never but `same` over unchanged timings', () => expect(verdicts(1)).toEqual(new Set(['same'])));
  it('is always `slower` over timings 15 % slower', () =>
    expect(verdicts(1.15)).toEqual(new Set(['slower'])));
  it('is always `faster` over timings 15 % faster', () =>
    expect(verdicts(1 / 1.15)).toEqual(new Set(['faster'])));

  const median = (value: number, spread: number) => ({
    ...{ median: value, low: value - spread, high: value + spread },
  });
  it.each<[string, number, number, Verdict]>([
    ['intervals apart, beyond the tolerance', 110, 4, 'slower'],
    ['intervals that overlap', 110, 6, 'same'],
    ['intervals that touch', 110, 5, 'same'],
    ['a difference within the tolerance', 104, 1, 'same'],
    ['a difference of the tolerance itself', 105, 1, 'same'],
    ['the same the other way round', 90, 4, 'faster'],
    ['overlapping the other way round', 90, 6, 'same'],
    ['within the tolerance the other way round', 96, 1, 'same'],
  ])('of %s', (_, now, spread, expected) => {
    expect(judge(median(now, spread), median(100, spread), TOLERANCE)).toBe(expected);
  });
});

describe('beside a baseline', () => {
  const times = { medianMs: 2, lowMs: 1.9, highMs: 2.1, rulers: 4, rulersLow: 3.9, rulersHigh: 4.1 };
  const before = { ...RESULT, ...times };
  const beside = (now: Partial<BenchResult>, then: BenchResult = before) =>
    besideBaseline({ ...RESULT, ...now }, then, TOLERANCE).baseline;

  it('a machine that is half as fast today is not the kernel’s fault', () => {
    const now = { ...times, medianMs: 4, lowMs: 3.8, highMs: 4.2 };
    expect(beside(now)).toEqual({ medianMs: 2, ratio: 1, verdict: 'same' });
  });

  it('nor does a machine that is faster today hide a kernel that is slower', () => {
    const now = { ...times, rulers: 5, rulersLow: 4.8, rulersHigh: 5.2 };
    expect(beside(now)).toEqual({ medianMs: 2, ratio: 1.25, verdict: 'slower' });
  });

  it('without rulers times are compared', () => {
    const { rulers: _, ...without } = before;
    const now = { ...times, medianMs: 4, lowMs: 3.8, highMs: 4.2 };
    expect(beside(now, without)).toEqual({ medianMs: 2, ratio: 2, verdict: 'slower' });
  });
});
