// Quantiles, and intervals that hold what they claim to hold.

import { describe, expect, it } from 'vitest';
import {
  CONFIDENCE,
  estimateDrifting,
  estimateMedian,
  estimateRatio,
  FEWEST_VALUES,
  median,
  quantile,
} from '../../bench/statistics.ts';
import { seeded } from '../support/random.ts';

describe('quantiles', () => {
  it.each([
    [[7], 0.1, 7],
    [[1, 2, 3, 4, 5], 0.5, 3],
    [[1, 2, 3, 4], 0.5, 2.5],
    [[10, 20, 30], 0.1, 12],
    [[10, 20, 30], 1, 30],
  ])('of %j at %d is %d', (sorted, q, expected) => expect(quantile(sorted, q)).toBeCloseTo(expected, 12));

  it('a median sorts first, and by number', () => expect(median([10, 9, 100])).toBe(10));
});

describe('the interval of a median', () => {
  const upTo = (n: number) => Array.from({ length: n }, (_, i) => i + 1);

  // From a table of the binomial distribution: n values, of which the k-th least and the k-th largest bound the interval.
  it.each([
    [6, 1],
    [8, 1],
    [9, 2],
    [15, 4],
    [20, 6],
    [100, 40],
    [10000, 4902],
  ])('of %d values runs between the %d-th least and largest', (n, k) => {
    expect(estimateMedian(upTo(n).reverse())).toEqual({ median: (n + 1) / 2, low: k, high: n + 1 - k });
  });

  it('is as sure as it claims, whatever the distribution', () => {
    const random = seeded(5);
    for (const rounds of [FEWEST_VALUES, 15]) {
      let holds = 0;
      const trials = 4000;
      for (let i = 0; i < trials; i++) {
        // A skewed distribution whose median is 1.
        const { low, high } = estimateMedian(Array.from(random.normals(rounds, 3), Math.exp));
        if (low <= 1 && 1 <= high) holds++;
      }
      expect(holds / trials).toBeGreaterThan(CONFIDENCE - 0.01);
    }
  });

  it('with fewer values than it takes is the whole of them', () => {
    expect(estimateMedian([3, 1, 2])).toEqual({ median: 2, low: 1, high: 3 });
  });
});

describe('a ratio', () => {
  it('pairs turns, so that a machine that slows down for a while changes nothing', () => {
    const pace = [1, 1, 5, 5, 1, 2, 1, 1];
    const ours = pace.map(slow => [10 * slow, 11 * slow, 90 * slow]);
    const theirs = pace.map(slow => [22 * slow]);
    expect(estimateRatio(theirs, ours)).toEqual({ median: 2, low: 2, high: 2 });
  });

  it('leaves turns of ours aside in which the peer sat out', () => {
    expect(estimateRatio([[6], [8]], [[2], [2], [1000]])).toEqual({ median: 3.5, low: 3, high: 4 });
  });
});

describe('the interval of a median of values that drift', () => {
  it('is the range of the medians of six stretches', () => {
    const values = [1, 9, 2, 2, 8, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6, 0, 7, 7];
    expect(estimateDrifting(values)).toEqual({ median: 5, low: 2, high: 7 });
  });

  it('holds the true median as surely as it claims, whatever the neighbours have in common', () => {
    const random = seeded(9);
    let holds = 0;
    const trials = 1000;
    for (let trial = 0; trial < trials; trial++) {
      // The machine is in one state for 20 values on end, of 300.
      const states = random.normals(15, 1);
      const noise = random.normals(300, 0.1);
      const { low, high } = estimateDrifting(
        Array.from(noise, (value, i) => value + states[Math.floor(i / 20)]!),
      );
      if (low <= 0 && 0 <= high) holds++;
    }
    expect(holds / trials).toBeGreaterThan(CONFIDENCE - 0.02);
  });
});
