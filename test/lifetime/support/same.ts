// Equality of arrays of any length, told in one line: a matcher's diff of two long arrays takes minutes.

import { expect } from 'vitest';

/** The same type, length and elements (Object.is: NaN is NaN, −0 is not 0). */
export function expectSame(actual: ArrayLike<number>, expected: ArrayLike<number>): void {
  expect(actual.constructor).toBe(expected.constructor);
  expect(actual.length).toBe(expected.length);
  for (let i = 0; i < expected.length; i++) {
    if (!Object.is(actual[i], expected[i]))
      expect.fail(`element ${i}: expected ${expected[i]}, got ${actual[i]}`);
  }
}
