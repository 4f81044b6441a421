// Writes safetensors files, well-formed or as broken as a test wants them.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';

export interface FileTensor {
  dtype: string;
  shape: number[];
  data: ArrayBufferView;
}

export type FileTensors = { [name: string]: FileTensor };

/** A file of the given header and data; `headerLength` is what it claims. */
export function rawFile(
  header: string | Uint8Array,
  data: Uint8Array | number = 0,
  headerLength?: bigint,
): Buffer {
  const text = Buffer.from(header as string);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(headerLength ?? BigInt(text.length));
  return Buffer.concat([length, text, typeof data === 'number' ? Buffer.alloc(data) : data]);
}

export function safetensors(tensors: FileTensors, metadata?: Record<string, string>): Buffer {
  const header: Record<string, unknown> = metadata ? { __metadata__: metadata } : {};
  const parts: Buffer[] = [];
  let end = 0;
  for (const [name, { dtype, shape, data }] of Object.entries(tensors)) {
    parts.push(Buffer.from(data.buffer, data.byteOffset, data.byteLength));
    header[name] = { dtype, shape, data_offsets: [end, end + data.byteLength] };
    end += data.byteLength;
  }
  return rawFile(JSON.stringify(header), Buffer.concat(parts));
}

/** A folder that disappears after the tests of the file; returns a function that writes a file into it. */
export function temporaryFiles(): { folder: string; write: (name: string, content: Uint8Array) => string } {
  const folder = mkdtempSync(join(tmpdir(), 'moe-kernels-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  const write = (name: string, content: Uint8Array) => {
    const path = join(folder, name);
    writeFileSync(path, content);
    return path;
  };
  return { folder, write };
}
