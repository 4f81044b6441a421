// The 16-bit dtypes in JavaScript: the bits of values and back, written apart from the addon to hold it against.

import type { DType, TensorData } from '../../src/index.ts';
import {
  type Precision,
  plain,
  roundToBfloat16,
  roundToFloat16,
  roundToFloat32,
} from '../reference/precision.ts';

export type Float = Exclude<DType, 'int32'>;

interface FloatFormat {
  round: (value: number) => number;
  /** Half the distance from 1 to the next larger number: the relative error of one rounding. */
  unit: number;
}

const FORMATS: Readonly<Record<Float, FloatFormat>> = {
  float32: { round: roundToFloat32, unit: 2 ** -24 },
  bfloat16: { round: roundToBfloat16, unit: 2 ** -8 },
  float16: { round: roundToFloat16, unit: 2 ** -11 },
};

export const unitRoundoff = (dtype: Float): number => FORMATS[dtype].unit;

/** What a plain program storing everything in `dtype` would compute: the yardstick of the error bounds. */
export const plainPrecision = (dtype: Float): Precision => plain(FORMATS[dtype].round);

/** The nearest values that `dtype` can hold. */
export function representable(dtype: Float, values: Float32Array): Float32Array {
  return values.map(FORMATS[dtype].round);
}

const single = new Float32Array(1);
const word = new Uint32Array(single.buffer);

function bfloat16Bits(value: number): number {
  single[0] = roundToBfloat16(value);
  return Number.isNaN(value) ? 0x7fc0 : word[0]! >>> 16;
}

function float16Bits(value: number): number {
  const rounded = roundToFloat16(value);
  if (Number.isNaN(rounded)) return 0x7e00;
  const sign = rounded < 0 || Object.is(rounded, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(rounded);
  if (magnitude === Infinity) return sign | 0x7c00;
  if (magnitude < 2 ** -14) return sign | (magnitude * 2 ** 24);
  single[0] = magnitude;
  // Both formats keep the leading bits of the fraction; only the exponents' offsets differ.
  return sign | ((word[0]! >>> 13) - ((127 - 15) << 10));
}

function fromFloat16(bits: number): number {
  const exponent = (bits >>> 10) & 31;
  const fraction = bits & 1023;
  const sign = bits & 0x8000 ? -1 : 1;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
}

const HALVES = Float64Array.from({ length: 2 ** 16 }, (_, bits) => fromFloat16(bits));

function fromBfloat16(bits: number): number {
  word[0] = bits << 16;
  return single[0]!;
}

function bitsOf(values: ArrayLike<number>, bits: (value: number) => number): Uint16Array {
  const out = new Uint16Array(values.length);
  for (let i = 0; i < out.length; i++) out[i] = bits(values[i]!);
  return out;
}

/** The elements as a tensor of `dtype` carries them, rounded to nearest even. */
export function encode(dtype: DType, values: ArrayLike<number>): TensorData {
  switch (dtype) {
    case 'float32':
      return Float32Array.from(values);
    case 'int32':
      return Int32Array.from(values);
    case 'bfloat16':
      return bitsOf(values, bfloat16Bits);
    case 'float16':
      return bitsOf(values, float16Bits);
  }
}

/** The values of a tensor's elements. */
export function decode(dtype: DType, data: TensorData): Float64Array {
  const values = Float64Array.from(data);
  if (dtype === 'bfloat16') return values.map(fromBfloat16);
  if (dtype === 'float16') return values.map(bits => HALVES[bits]!);
  return values;
}
