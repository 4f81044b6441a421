// A file far larger than a layer: loading takes the layer's own bytes and little more.

import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { temporaryFiles } from '../cli/support/safetensors.ts';
import { runNode } from '../support/child.ts';

const { folder } = temporaryFiles();
const LOAD = fileURLToPath(new URL('children/load.ts', import.meta.url));

const SIZES = { hidden: 1024, intermediate: 2048, experts: 8 };
const FILE_BYTES = 8 * 2 ** 30;
/** The program as it goes on, and strips that wait to be collected: less than a copy of the layer's 96 MiB. */
const SLACK = 64 * 2 ** 20;
/** Of float32 and of bfloat16: 1.5. */
const LAST = { float32: 1.5, bfloat16: 0x3fc0 };

/** A bfloat16 checkpoint that is a hole but for its header and the layer's last element. */
function sparseCheckpoint(path: string): void {
  const { hidden, intermediate, experts } = SIZES;
  const prefix = 'model.layers.0.block_sparse_moe';
  const shapes: [string, number[]][] = [[`${prefix}.gate.weight`, [experts, hidden]]];
  for (let expert = 0; expert < experts; expert++) {
    shapes.push([`${prefix}.experts.${expert}.w1.weight`, [intermediate, hidden]]);
    shapes.push([`${prefix}.experts.${expert}.w3.weight`, [intermediate, hidden]]);
    shapes.push([`${prefix}.experts.${expert}.w2.weight`, [hidden, intermediate]]);
  }
  const header: Record<string, unknown> = {};
  let end = 0;
  for (const [name, shape] of shapes) {
    const bytes = 2 * shape.reduce((a, b) => a * b);
    header[name] = { dtype: 'BF16', shape, data_offsets: [end, end + bytes] };
    end += bytes;
  }
  header['model.layers.1.rest'] = { dtype: 'U8', shape: [FILE_BYTES - end], data_offsets: [end, FILE_BYTES] };
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const file = openSync(path, 'w');
  writeSync(file, Buffer.concat([length, text]), 0, 8 + text.length, 0);
  ftruncateSync(file, 8 + text.length + FILE_BYTES);
  writeSync(file, Uint8Array.of(0xc0, 0x3f), 0, 2, 8 + text.length + end - 2);
  closeSync(file);
}

test.each(['bfloat16', 'float32'] as const)(
  '8 GiB on disk, a layer of 96 MiB of bfloat16 as %s',
  async dtype => {
    const path = join(folder, `${dtype}.safetensors`);
    sparseCheckpoint(path);
    const exit = await runNode(['--import', 'tsx', LOAD, path, JSON.stringify(SIZES), dtype]);
    expect(exit.stderr).toBe('');
    const { grown, last } = JSON.parse(exit.stdout);
    const { hidden, intermediate, experts } = SIZES;
    const layerBytes = 3 * hidden * intermediate * experts * (dtype === 'float32' ? 4 : 2);
    expect(last).toBe(LAST[dtype]);
    expect(grown).toBeGreaterThan(layerBytes / 2);
    expect(grown).toBeLessThan(layerBytes + SLACK);
  },
);
