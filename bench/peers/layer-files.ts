// The layer that peers load, as raw little-endian float32 files in a temporary folder: x [T, H], dy [T, H], router
// [E, H], up [E, 2I, H] (gate rows first) or [E, I, H], down [E, H, I]; and what they computed from it.

import { closeSync, fstatSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { writing } from '../file-access.ts';

export const LAYER_TENSORS = ['x', 'dy', 'router', 'up', 'down'] as const;
export type LayerTensor = (typeof LAYER_TENSORS)[number];

/** Bytes of one read or write: Node.js takes less than 2 GiB. */
const CHUNK = 2 ** 30;

export function tensorFile(folder: string, name: string): string {
  return join(folder, `${name}.f32`);
}

export function writeFloats(folder: string, name: string, values: Float32Array): void {
  const file = openSync(tensorFile(folder, name), 'w');
  try {
    inChunks(values, (bytes, offset, length) => writeSync(file, bytes, offset, length));
  } finally {
    closeSync(file);
  }
}

export function readFloats(folder: string, name: string): Float32Array {
  const file = openSync(tensorFile(folder, name), 'r');
  try {
    const values = new Float32Array(fstatSync(file).size / 4);
    inChunks(values, (bytes, offset, length) => readSync(file, bytes, offset, length, null));
    return values;
  } finally {
    closeSync(file);
  }
}

/** `transfer` returns how many bytes it did. */
function inChunks(
  values: Float32Array,
  transfer: (bytes: Uint8Array, offset: number, length: number) => number,
): void {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  for (let offset = 0; offset < bytes.length; ) {
    const done = transfer(bytes, offset, Math.min(CHUNK, bytes.length - offset));
    if (done === 0) throw new Error(`a file of float32 ends after ${offset} of ${bytes.length} bytes`);
    offset += done;
  }
}

/**
 * A folder that is gone when disposed, or when the process exits.
 * @throws MoeError ERR_FILE if there is no room for one
 */
export class TemporaryFolder implements Disposable {
  readonly path = writing('vs', tmpdir(), () => mkdtempSync(join(tmpdir(), 'moe-kernels-peers-')));
  readonly #remove = () => rmSync(this.path, { recursive: true, force: true });

  constructor() {
    process.once('exit', this.#remove);
  }

  [Symbol.dispose](): void {
    process.off('exit', this.#remove);
    this.#remove();
  }
}
