// Medians and what can be said of them: quantiles of measured times, and an interval for the ratio of two.

/** The value below which a share `q` of the sorted values lies; between two of them by linear interpolation. */
export function quantile(sorted: readonly number[], q: number): number {
  const position = q * (sorted.length - 1);
  const below = Math.floor(position);
  const [low, high] = [sorted[below]!, sorted[Math.ceil(position)]!];
  return low + (position - below) * (high - low);
}

export function ascending(values: readonly number[]): number[] {
  return [...values].sort((a, b) => a - b);
}

export function median(values: readonly number[]): number {
  return quantile(ascending(values), 0.5);
}

export function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/** A median with an interval that holds the true one with the confidence asked for. */
export interface Estimate {
  readonly median: number;
  readonly low: number;
  readonly high: number;
}

export const CONFIDENCE = 0.95;
/** With fewer values not even the interval from the least to the largest holds the median so surely. */
export const FEWEST_VALUES = 6;

/**
 * The median of independent values with its interval by order statistics, which assumes no distribution: the number of values
 * below the true median is binomial with p = ½ (Conover, Practical Nonparametric Statistics, §3.2).
 */
export function estimateMedian(values: readonly number[]): Estimate {
  const sorted = ascending(values);
  const n = sorted.length;
  // `tail` is the probability that at most `skipped` values lie below the true median; that just so many more do is `next`, of which
  // the logarithm is kept, for 2^−n is no number of a thousand values.
  let skipped = 0;
  let tail = 2 ** -n;
  let logNext = Math.log(n) - n * Math.LN2;
  while (tail + Math.exp(logNext) <= (1 - CONFIDENCE) / 2) {
    tail += Math.exp(logNext);
    skipped++;
    logNext += Math.log((n - skipped) / (skipped + 1));
  }
  return { median: quantile(sorted, 0.5), low: sorted[skipped]!, high: sorted[n - 1 - skipped]! };
}

/**
 * The median of values that followed each other, with the range of the medians of equal stretches of them, as many as a range needs
 * to hold the true median as surely. Neighbours find the machine in the same state, so that order statistics over them claim too
 * much; stretches, each the longer the longer is measured, tell how much the state matters (batch means: Law, Simulation Modeling
 * and Analysis, §9.5).
 */
export function estimateDrifting(values: readonly number[]): Estimate {
  const stretches = Math.min(FEWEST_VALUES, values.length);
  const begin = (i: number) => Math.floor((i * values.length) / stretches);
  const medians = Array.from({ length: stretches }, (_, i) => median(values.slice(begin(i), begin(i + 1))));
  return { median: median(values), low: Math.min(...medians), high: Math.max(...medians) };
}

/**
 * How many times as long `theirs` took as `ours`, from turns that followed each other: the ratio of each pair, so that what slows
 * the machine down for a while slows both. Ours may have had more turns, later ones.
 */
export function estimateRatio(
  theirs: readonly (readonly number[])[],
  ours: readonly (readonly number[])[],
): Estimate {
  return estimateMedian(theirs.map((turn, round) => median(turn) / median(ours[round]!)));
}
