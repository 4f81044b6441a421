// Verdicts over synthetic timings: noise is never slower, what became slower always is.

import { describe, expect, it } from 'vitest';
import { timingOf } from '../../bench/measure.ts';
import { judge, type Verdict } from '../../bench/verdict.ts';
import { seeded } from '../support/random.ts';

const TOLERANCE = 0.05;
const TRIALS = 1000;
const NOISE = 0.02;
const RUNS = 20;

/** The verdicts of trials in which the second timing takes `factor` times as long as the first. */
function verdicts(factor: number): Set<Verdict> {
  const random = seeded(7);
  const timing = (pace: number) => timingOf(Array.from(random.normals(RUNS, NOISE), x => pace * (1 + x)));
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

  const median = (medianMs: number, spread: number) => ({
    ...{ medianMs, lowMs: medianMs - spread, highMs: medianMs + spread },
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
