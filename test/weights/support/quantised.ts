// Published quantised forms, written and decoded apart from the package: random codes, and the values that they stand for.

import type { FileTensors } from '../../cli/support/safetensors.ts';
import type { Matrix } from './published.ts';

/** The 127 magnitudes of e4m3 in the order of their codes: 7 subnormal steps of 2⁻⁹, then 8 steps to each power of two. */
const FP8_MAGNITUDES = [...Array(8).keys()].map(step => step / 512);
for (let power = 1 / 64; power <= 256; power *= 2) {
  for (let eighths = 8; eighths < 16; eighths++) FP8_MAGNITUDES.push((power * eighths) / 8);
}
FP8_MAGNITUDES.length = 127;

export function fp8Value(code: number): number {
  const magnitude = FP8_MAGNITUDES[code % 128] ?? Number.NaN;
  return code < 128 ? magnitude : -magnitude;
}

const FP4_MAGNITUDES = [0, 0.5, 1, 1.5, 2, 3, 4, 6];

export function fp4Value(code: number): number {
  return code < 8 ? FP4_MAGNITUDES[code]! : -FP4_MAGNITUDES[code - 8]!;
}

export interface Quantised {
  readonly tensors: FileTensors;
  readonly matrix: Matrix;
}

/** @param scaleAt of the block in this row and column of blocks */
export function fp8Matrix(
  name: string,
  [rows, columns]: readonly [number, number],
  codes: Uint8Array,
  scaleAt: (row: number, column: number) => number,
): Quantised {
  const [down, across] = [Math.ceil(rows / 128), Math.ceil(columns / 128)];
  const scales = Float32Array.from({ length: down * across }, (_, i) =>
    scaleAt(Math.floor(i / across), i % across),
  );
  const values = Float32Array.from(codes, (code, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    return fp8Value(code) * scales[Math.floor(row / 128) * across + Math.floor(column / 128)]!;
  });
  return {
    tensors: {
      [name]: { dtype: 'F8_E4M3', shape: [rows, columns], data: codes },
      [`${name}_scale_inv`]: { dtype: 'F32', shape: [down, across], data: scales },
    },
    matrix: { shape: [rows, columns], values },
  };
}

/** @param exponents one for each 32 elements, of bias 127 */
export function mxfp4Matrices(
  name: string,
  [experts, rows, columns]: readonly [number, number, number],
  codes: Uint8Array,
  exponents: Uint8Array,
): Quantised {
  const packed = Uint8Array.from(
    { length: codes.length / 2 },
    (_, i) => codes[2 * i]! | (codes[2 * i + 1]! << 4),
  );
  const values = Float32Array.from(codes, (code, i) => {
    const exponent = exponents[Math.floor(i / 32)]!;
    return exponent === 255 ? Number.NaN : fp4Value(code) * 2 ** (exponent - 127);
  });
  const groups = [experts, rows, columns / 32];
  return {
    tensors: {
      [`${name}_blocks`]: { dtype: 'U8', shape: [...groups, 16], data: packed },
      [`${name}_scales`]: { dtype: 'U8', shape: groups, data: exponents },
    },
    matrix: { shape: [experts, rows, columns], values },
  };
}
