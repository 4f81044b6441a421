// Comparisons as norms, in which NaN always fails, and the rule that judges low precision.

import { expect } from 'vitest';
import { type Float, unitRoundoff } from './dtypes.ts';

/** ‖actual − expected‖ / ‖expected‖; for an expected zero, 0 or infinity. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += (actual[i]! - expected[i]!) ** 2;
    norm += expected[i]! ** 2;
  }
  return difference === 0 ? 0 : Math.sqrt(difference / norm);
}

/** As {@link relativeError} in the maximum norm, which one wrong element of a large tensor cannot hide from. */
function relativeMaximumError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    const distance = Math.abs(actual[i]! - expected[i]!);
    // Not Math.max: NaN must win.
    if (!(distance <= difference)) difference = distance;
    norm = Math.max(norm, Math.abs(expected[i]!));
  }
  return difference === 0 ? 0 : difference / norm;
}

export function expectClose(
  name: string,
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  bound: number,
  error = relativeError,
): void {
  expect(actual.length, `${name}: number of elements`).toBe(expected.length);
  const found = error(actual, expected);
  if (!(found <= bound))
    expect.fail(`${name}: relative error ${found.toExponential(3)}, bound ${bound.toExponential(3)}`);
}

/** The same bytes in every array of two results read with `download` or `downloadBytes`. */
export function expectSameBytes(name: string, actual: unknown, expected: unknown): void {
  if (typeof expected !== 'object' || expected === null) return;
  if (!ArrayBuffer.isView(expected)) {
    for (const [key, value] of Object.entries(expected)) {
      expectSameBytes(`${name}.${key}`, (actual as Record<string, unknown>)[key], value);
    }
    return;
  }
  expect(ArrayBuffer.isView(actual) && actual.byteLength, `${name}: number of bytes`).toBe(
    expected.byteLength,
  );
  const [expectedBytes, actualBytes] = [bytesOf(expected), bytesOf(actual as ArrayBufferView)];
  if (expectedBytes.equals(actualBytes)) return;
  const first = expectedBytes.findIndex((byte, i) => byte !== actualBytes[i]);
  expect.fail(`${name}: bytes differ first at ${first} of ${expectedBytes.length}`);
}

function bytesOf({ buffer, byteOffset, byteLength }: ArrayBufferView): Buffer {
  return Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength);
}

/**
 * How far a float32 result may be off that a plain computation happens to hit exactly: a few roundings, and the last bits
 * of a vectorised exponential. Sixteen-bit results must be within one rounding of their dtype then.
 */
const LEAST_UNITS: Readonly<Record<Float, number>> = { float32: 16, bfloat16: 1, float16: 1 };

/** Of so few elements, a plain computation may happen to hit all well: there it counts as one rounding at least. */
const FEW_ELEMENTS = 64;

/**
 * Error to the float64 reference at most twice that of a plain computation in the same dtype. The largest error of all
 * elements is that of a single one, on which the last rounding may fall either way.
 */
export function expectTwicePlain(
  name: string,
  dtype: Float,
  actual: ArrayLike<number>,
  exact: ArrayLike<number>,
  plain: ArrayLike<number>,
): void {
  const units = LEAST_UNITS[dtype] * (exact.length < FEW_ELEMENTS ? 2 : 1);
  const least = units * unitRoundoff(dtype);
  expectClose(name, actual, exact, Math.max(2 * relativeError(plain, exact), least));
  const largest = 2 * relativeMaximumError(plain, exact) + least;
  expectClose(`${name}, largest error`, actual, exact, largest, relativeMaximumError);
}
