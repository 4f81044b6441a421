// Moves one matrix from a checkpoint to its place in a parameter: straight where it lies there as here, else a strip of
// rows at a time, so that neither a copy of a matrix is made nor the event loop held up for one.

import { DTYPES, type FloatDType } from '../dtype.ts';
import { tensor } from '../tensor.ts';
import type { Block } from './plan.ts';

/** Elements in the parameter's dtype: float32, or the bits of bfloat16 or float16. */
export type FloatArray = Float32Array | Uint16Array;

/** Of a strip: a MiB at most, many rows of any model. */
const STRIP_ELEMENTS = 2 ** 18;

export async function readBlock(block: Block, into: FloatArray, dtype: FloatDType): Promise<void> {
  const { tensor, start, rows, columns, transposed, at } = block;
  if (!transposed && block.dtype === dtype) {
    await tensor.file.readInto(tensor.name, into.subarray(at, at + rows * columns), start);
    return;
  }
  const [height, width] = transposed ? [columns, rows] : [rows, columns];
  const stripHeight = Math.min(height, Math.max(1, Math.floor(STRIP_ELEMENTS / width)));
  const buffer = new DTYPES[block.dtype].array(stripHeight * width) as FloatArray;
  for (let top = 0; top < height; top += stripHeight) {
    const strip = buffer.subarray(0, Math.min(stripHeight, height - top) * width);
    await tensor.file.readInto(tensor.name, strip, start + top * width);
    placeStrip(block, await convert(strip, block.dtype, dtype), top, into);
  }
}

async function convert(strip: FloatArray, from: FloatDType, to: FloatDType): Promise<FloatArray> {
  if (from === to) return strip;
  using stored = tensor(strip, [strip.length], { dtype: from });
  using converted = stored.cast(to);
  return (await converted.data()) as FloatArray;
}

/** @param top the strip's first row, counted in rows as they are stored */
function placeStrip(block: Block, strip: FloatArray, top: number, into: FloatArray): void {
  const { rows, columns, transposed, at } = block;
  if (!transposed) {
    into.set(strip, at + top * columns);
    return;
  }
  const height = strip.length / rows;
  for (let j = 0; j < rows; j++) {
    const column = at + j * columns + top;
    for (let i = 0; i < height; i++) into[column + i] = strip[i * rows + j]!;
  }
}
