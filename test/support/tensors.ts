// Tensors in tests: inputs uploaded and freed after each test, results read and freed.

import { afterEach } from 'vitest';
import { type DType, Tensor, tensor } from '../../src/index.ts';
import { decode, encode } from './dtypes.ts';

const uploaded = new Set<Tensor>();

afterEach(() => {
  for (const input of uploaded) input.dispose();
  uploaded.clear();
});

/** An input tensor, freed after the test. */
export function upload(
  values: ArrayLike<number>,
  shape: readonly number[],
  dtype: DType,
  device?: Tensor['device'],
): Tensor {
  const input = tensor(encode(dtype, values), shape, { dtype, device });
  uploaded.add(input);
  return input;
}

/** What an op returns, with its tensors replaced by something read from them. */
export type Replaced<T, V> = T extends Tensor
  ? V
  : T extends object
    ? { [Key in keyof T]: Replaced<T[Key], V> }
    : T;

function replaceTensors<T, V>(result: T, replace: (tensor: Tensor) => V): Replaced<T, V> {
  if (result instanceof Tensor) return replace(result) as Replaced<T, V>;
  if (typeof result !== 'object' || result === null) return result as Replaced<T, V>;
  const entries = Object.entries(result).map(([key, value]) => [key, replaceTensors(value, replace)]);
  return Object.fromEntries(entries) as Replaced<T, V>;
}

/** Frees every tensor of a result but those that were given to the op. */
export function free(result: unknown): void {
  replaceTensors(result, output => uploaded.has(output) || output.dispose());
}

/** The values of all tensors of a result, which are freed. */
export function download<T>(result: T): Replaced<T, Float64Array> {
  const values = replaceTensors(result, output => decode(output.dtype, output.dataSync()));
  free(result);
  return values;
}

/** As {@link download}, but the bytes as they are stored. */
export function downloadBytes<T>(result: T): Replaced<T, Buffer> {
  const bytes = replaceTensors(result, output => {
    const { buffer, byteOffset, byteLength } = output.dataSync();
    return Buffer.from(buffer, byteOffset, byteLength);
  });
  free(result);
  return bytes;
}
