// Matrices of 8-bit floats, each block of 128 by 128 with a scale, as DeepSeek-V3 is released: `weight` in e4m3 (OCP 8-bit
// Floating Point Specification) and `weight_scale_inv`, by which its elements are multiplied (README_WEIGHTS.md of
// github.com/deepseek-ai/DeepSeek-V3). The last row and column of blocks are cut where the matrix ends.

import { DTYPES } from '../dtype.ts';
import { tensor } from '../tensor.ts';
import type { StoredTensor } from './checkpoint.ts';
import { type FloatArray, packedTail, STRIP_ELEMENTS, type StoredMatrix } from './matrix.ts';

export const FP8_BLOCK = 128;

const E4M3 = Float32Array.from({ length: 256 }, (_, code) => e4m3(code));

/** Sign, four bits of exponent (bias 7), three of fraction; no infinity, and all ones is NaN. */
function e4m3(code: number): number {
  const exponent = (code >> 3) & 15;
  const fraction = (code & 7) / 8;
  const sign = code & 128 ? -1 : 1;
  if ((code & 127) === 127) return Number.NaN;
  return sign * (exponent === 0 ? fraction * 2 ** -6 : (1 + fraction) * 2 ** (exponent - 7));
}

/** @param scales [⌈rows/128⌉, ⌈columns/128⌉] */
export function fp8Matrix(
  { file, name }: StoredTensor,
  scales: StoredMatrix,
  { rows, columns }: Pick<StoredMatrix, 'rows' | 'columns'>,
): StoredMatrix {
  return {
    ...{ dtype: 'float32', layerDType: 'bfloat16', rows, columns, stripElements: STRIP_ELEMENTS },
    async read(top, into) {
      const codes = packedTail(into, into.length);
      await file.readInto(name, codes, top * columns);
      const last = top + into.length / columns - 1;
      const firstBlocks = Math.floor(top / FP8_BLOCK);
      const blockRows = Math.floor(last / FP8_BLOCK) - firstBlocks + 1;
      const factors = await readFloat32(scales, firstBlocks, blockRows);
      decodeFp8(codes, factors, { columns, skippedRows: top % FP8_BLOCK }, into);
    },
  };
}

/**
 * @param codes whole rows, possibly at the end of the memory of `into`
 * @param scales of the blocks from the one of the first row on
 * @param skippedRows rows of the first block that lie before `codes`
 */
export function decodeFp8(
  codes: Uint8Array,
  scales: Float32Array,
  { columns, skippedRows }: { columns: number; skippedRows: number },
  into: FloatArray,
): void {
  const blocksAcross = Math.ceil(columns / FP8_BLOCK);
  for (let start = 0, row = skippedRows; start < codes.length; start += columns, row++) {
    const firstScale = Math.floor(row / FP8_BLOCK) * blocksAcross;
    for (let block = 0; block < blocksAcross; block++) {
      const scale = scales[firstScale + block]!;
      const end = start + Math.min(columns, (block + 1) * FP8_BLOCK);
      for (let i = start + block * FP8_BLOCK; i < end; i++) into[i] = E4M3[codes[i]!]! * scale;
    }
  }
}

async function readFloat32(matrix: StoredMatrix, top: number, rows: number): Promise<Float32Array> {
  const { dtype, columns } = matrix;
  const stored = new DTYPES[dtype].array(rows * columns) as FloatArray;
  await matrix.read(top, stored);
  if (stored instanceof Float32Array) return stored;
  using copy = tensor(stored, [stored.length], { dtype });
  return await copy.float32();
}
