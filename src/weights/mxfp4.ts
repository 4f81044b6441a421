// Matrices of 4-bit floats e2m1, each 32 elements of a row with a power of two as their scale: MXFP4 (OCP Microscaling Formats
// Specification), as gpt-oss is released: `NAME_blocks` [E, rows, columns/32, 16], bytes of two elements, the first in the
// low bits, and `NAME_scales` [E, rows, columns/32], exponents of bias 127.

import type { StoredTensor } from './checkpoint.ts';
import { type FloatArray, packedTail, STRIP_ELEMENTS, type StoredMatrix } from './matrix.ts';

/** Elements that share a scale, and the bytes that they are. */
export const MXFP4_GROUP = 32;
export const MXFP4_GROUP_BYTES = 16;

/** By sign, two bits of exponent and one of fraction. */
const E2M1 = Float32Array.of(0, 0.5, 1, 1.5, 2, 3, 4, 6, -0, -0.5, -1, -1.5, -2, -3, -4, -6);
/** 255 is NaN, and so is all that it scales. */
const E8M0 = Float32Array.from({ length: 256 }, (_, code) => (code === 255 ? Number.NaN : 2 ** (code - 127)));

/** @param matrices those that lie before this one in its tensors */
export function mxfp4Matrix(
  { blocks, scales }: { blocks: StoredTensor; scales: StoredTensor },
  { rows, columns, matrices }: Pick<StoredMatrix, 'rows' | 'columns'> & { matrices: number },
): StoredMatrix {
  const groupsAcross = columns / MXFP4_GROUP;
  return {
    ...{ dtype: 'float32', layerDType: 'bfloat16', rows, columns, stripElements: STRIP_ELEMENTS },
    async read(top, into) {
      const first = (matrices * rows + top) * groupsAcross;
      const exponents = new Uint8Array(into.length / MXFP4_GROUP);
      const codes = packedTail(into, exponents.length * MXFP4_GROUP_BYTES);
      await blocks.file.readInto(blocks.name, codes, first * MXFP4_GROUP_BYTES);
      await scales.file.readInto(scales.name, exponents, first);
      decodeMxfp4(codes, exponents, into);
    },
  };
}

/** @param codes two elements a byte, possibly at the end of the memory of `into` */
export function decodeMxfp4(codes: Uint8Array, exponents: Uint8Array, into: FloatArray): void {
  for (let group = 0; group < exponents.length; group++) {
    const scale = E8M0[exponents[group]!]!;
    const end = (group + 1) * MXFP4_GROUP_BYTES;
    for (let byte = group * MXFP4_GROUP_BYTES; byte < end; byte++) {
      const pair = codes[byte]!;
      into[2 * byte] = E2M1[pair & 15]! * scale;
      into[2 * byte + 1] = E2M1[pair >> 4]! * scale;
    }
  }
}
