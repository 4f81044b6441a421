// How a result is judged: one relative error per tensor against one bound, and NaN never holds.

/** One quantity's error against its bound. */
export interface Comparison {
  readonly name: string;
  readonly error: number;
  readonly bound: number;
  readonly holds: boolean;
}

/** The bounds of float32 results against those of another float32 or float64 computation. */
export const VALUE_BOUND = 1e-5;
export const GRADIENT_BOUND = 1e-4;

export function compare(name: string, error: number, bound: number): Comparison {
  return { name, error, bound, holds: error <= bound };
}

/** ‖actual − expected‖ / ‖expected‖ in float64; where nothing but zero is expected, 0 or Infinity. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Number.NaN;
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += (actual[i]! - expected[i]!) ** 2;
    norm += expected[i]! ** 2;
  }
  if (norm === 0) return difference === 0 ? 0 : Infinity;
  return Math.sqrt(difference / norm);
}
