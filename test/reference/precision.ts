// How exactly the reference computes: float64 throughout, or as a plain low-precision program would, with every stored
// tensor rounded to its dtype and sums carried in float32. One computation serves both; only this description differs.

/** A tensor's elements, row-major, as the reference takes them in. */
export type Values = Float64Array | Float32Array;

export interface Precision {
  /** Rounds a value that is stored: an activation, a gradient. */
  readonly round: (value: number) => number;
  /** Whether running sums, and everything of the router's, are rounded to float32. */
  readonly float32Sums: boolean;
}

export const FLOAT64: Precision = { round: value => value, float32Sums: false };

/** The plain computation whose error is the yardstick for kernels that store `round`ed values. */
export function plain(round: (value: number) => number): Precision {
  return { round, float32Sums: true };
}

/** The same sums of what is not stored: a term of a further sum. */
export function unrounded(precision: Precision): Precision {
  return { ...precision, round: value => value };
}

const bits = new Float32Array(1);
const word = new Uint32Array(bits.buffer);

/** Round to nearest even, to `mantissa` stored bits with exponents from `minExponent`; beyond `max` comes infinity. */
function rounder(mantissa: number, minExponent: number, max: number): (value: number) => number {
  const quanta = Float64Array.from(
    { length: 256 },
    (_, field) => 2 ** (Math.max(field - 127, minExponent) - mantissa),
  );
  return value => {
    bits[0] = value;
    const single = bits[0];
    if (!Number.isFinite(single)) return single;
    const quantum = quanta[(word[0]! >>> 23) & 255]!;
    // Adding 2^52 to a smaller non-negative number rounds it to an integer, ties to even.
    const magnitude = (Math.abs(single) / quantum + 2 ** 52 - 2 ** 52) * quantum;
    const rounded = magnitude > max ? Infinity : magnitude;
    return single < 0 || Object.is(single, -0) ? -rounded : rounded;
  };
}

export const roundToBfloat16 = rounder(7, -126, (2 - 2 ** -7) * 2 ** 127);
export const roundToFloat16 = rounder(10, -14, 65504);
export const roundToFloat32 = Math.fround;

/** Rounds a tensor that is float32 whatever the layer's dtype: logits and routing weights. */
export function roundRouting(precision: Precision, values: Float64Array): Float64Array {
  return precision.float32Sums ? Float64Array.from(values, Math.fround) : values;
}

/** Σ a[i]·b[i] over `count` elements, in order. */
export function dot(
  precision: Precision,
  a: Float64Array,
  aStart: number,
  b: Float64Array,
  bStart: number,
  count: number,
): number {
  let sum = 0;
  if (precision.float32Sums) {
    for (let i = 0; i < count; i++) sum = Math.fround(sum + a[aStart + i]! * b[bStart + i]!);
  } else {
    for (let i = 0; i < count; i++) sum += a[aStart + i]! * b[bStart + i]!;
  }
  return sum;
}

/** out[i] += factor·a[i] over `count` elements. */
export function addScaled(
  precision: Precision,
  factor: number,
  a: Float64Array,
  aStart: number,
  out: Float64Array,
  outStart: number,
  count: number,
): void {
  if (precision.float32Sums) {
    for (let i = 0; i < count; i++)
      out[outStart + i] = Math.fround(out[outStart + i]! + factor * a[aStart + i]!);
  } else {
    for (let i = 0; i < count; i++) out[outStart + i]! += factor * a[aStart + i]!;
  }
}

/** The elementwise sum of tensors, stored. */
export function sum(precision: Precision, first: Float64Array, ...others: Float64Array[]): Float64Array {
  return first.map((value, i) => precision.round(others.reduce((total, other) => total + other[i]!, value)));
}
