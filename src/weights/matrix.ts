// A matrix of a checkpoint, whatever form it is stored in: read a strip of whole rows at a time, so that neither a copy of it
// is made nor the event loop held up for one.

import type { FloatDType } from '../dtype.ts';
import type { StoredTensor } from './checkpoint.ts';

/** Elements as they are stored: float32, or the bits of bfloat16 or float16. */
export type FloatArray = Float32Array | Uint16Array;

export interface StoredMatrix {
  /** What its elements are read as; those of a quantised form are float32. */
  readonly dtype: FloatDType;
  /** The dtype of a layer of such matrices where none is asked for. */
  readonly layerDType: FloatDType;
  /** A vector has one column. */
  readonly rows: number;
  readonly columns: number;
  /** Elements worth reading at once. */
  readonly stripElements: number;
  /** Fills `into` with whole rows, from row `top` on. */
  read(top: number, into: FloatArray): Promise<void>;
}

export interface Strip {
  /** Its first row. */
  readonly top: number;
  /** Whole rows; overwritten by the next strip's. */
  readonly values: FloatArray;
}

/** A few MiB: many rows of any model, read and converted in a few milliseconds. */
export const STRIP_ELEMENTS = 2 ** 20;
/** Each strip of a transposed matrix takes reading all of it once: 64 MiB at most, so that there are few. */
const TRANSPOSED_STRIP_ELEMENTS = 2 ** 24;

/** Elements as a layer has them, from element `start` of their tensor on. */
export function plainMatrix(
  { file, name }: StoredTensor,
  { dtype, start, rows, columns }: Pick<StoredMatrix, 'dtype' | 'rows' | 'columns'> & { start: number },
): StoredMatrix {
  return {
    ...{ dtype, layerDType: dtype, rows, columns, stripElements: STRIP_ELEMENTS },
    read: (top, into) => file.readInto(name, into, start + top * columns),
  };
}

export function transposed(matrix: StoredMatrix): StoredMatrix {
  const { rows: columns, columns: rows } = matrix;
  return {
    ...{ ...matrix, rows, columns, stripElements: TRANSPOSED_STRIP_ELEMENTS },
    async read(top, into) {
      const count = into.length / columns;
      const buffer = stripBuffer([matrix]);
      for await (const { top: left, values } of strips(matrix, buffer)) {
        const width = values.length / rows;
        for (let i = 0; i < count; i++) {
          const row = i * columns + left;
          for (let j = 0; j < width; j++) into[row + j] = values[j * rows + top + i]!;
        }
      }
    },
  };
}

/**
 * The last bytes of an array's memory, for packed elements that become the array's in ascending order: none is overwritten before
 * it is read, for an element is at least as far from the end as what it is made of.
 */
export function packedTail({ buffer, byteOffset, byteLength }: FloatArray, bytes: number): Uint8Array {
  return new Uint8Array(buffer, byteOffset + byteLength - bytes, bytes);
}

/** Memory for strips of any of the matrices. */
export function stripBuffer(matrices: readonly StoredMatrix[]): ArrayBuffer {
  const elements = matrices.map(matrix => stripRows(matrix) * matrix.columns);
  return new ArrayBuffer(Float32Array.BYTES_PER_ELEMENT * Math.max(0, ...elements));
}

/** @param buffer of {@link stripBuffer} */
export async function* strips(matrix: StoredMatrix, buffer: ArrayBuffer): AsyncGenerator<Strip> {
  const { dtype, rows, columns } = matrix;
  const most = stripRows(matrix);
  for (let top = 0; top < rows; top += most) {
    const elements = Math.min(most, rows - top) * columns;
    const values =
      dtype === 'float32' ? new Float32Array(buffer, 0, elements) : new Uint16Array(buffer, 0, elements);
    await matrix.read(top, values);
    yield { top, values };
  }
}

function stripRows({ rows, columns, stripElements }: StoredMatrix): number {
  return Math.min(rows, Math.max(1, Math.floor(stripElements / columns)));
}
