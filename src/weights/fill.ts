// Moves matrices from a checkpoint to their places in a parameter, strip by strip through the device's queue, so that no array
// as long as a parameter is needed: the largest ones have more elements than an array can.

import { finished } from '../device.ts';
import { castInto, type Tensor, tensor } from '../tensor.ts';
import { type FloatArray, type StoredMatrix, stripBuffer, strips } from './matrix.ts';

/** A matrix and its place in a parameter. */
export interface Block {
  readonly matrix: StoredMatrix;
  /** Where its first row goes: an element of the parameter. */
  readonly at: number;
}

/** Strips that the queue may hold copies of. */
const STAGED_BYTES = 2 ** 24;

/** Resolves once the queue has filled the parameter. */
export async function fill(parameter: Tensor, blocks: readonly Block[]): Promise<void> {
  const buffer = stripBuffer(blocks.map(({ matrix }) => matrix));
  let staged = 0;
  for (const { matrix, at } of blocks) {
    for await (const { top, values } of strips(matrix, buffer)) {
      place(parameter, values, matrix, at + top * matrix.columns);
      staged += values.byteLength;
      if (staged < STAGED_BYTES) continue;
      await finished(parameter.device);
      staged = 0;
    }
  }
  await finished(parameter.device);
}

function place(parameter: Tensor, values: FloatArray, { dtype }: StoredMatrix, at: number): void {
  if (dtype === parameter.dtype) {
    parameter.write(values, { at });
    return;
  }
  using strip = tensor(values, [values.length], { dtype, device: parameter.device });
  castInto(strip, parameter, at);
}
