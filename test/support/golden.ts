// Reads a golden case: a safetensors file is a header length, a JSON header and the tensors' bytes.

import { readFileSync } from 'node:fs';
import type { ReferenceConfig } from '../reference/moe.ts';

export interface GoldenCase {
  config: ReferenceConfig;
  /** Every float tensor of the file by name. */
  tensors: { [name: string]: { shape: number[]; values: Float32Array } };
  /** [T, K], ascending by id */
  indices: Int32Array;
}

export const GOLDEN_CASES = ['mixtral', 'jamba', 'grok1', 'granitemoe'] as const;

export function readGolden(name: (typeof GOLDEN_CASES)[number]): GoldenCase {
  const file = readFileSync(new URL(`../golden/${name}.safetensors`, import.meta.url));
  const dataStart = 8 + Number(file.readBigUInt64LE(0));
  const { __metadata__: metadata, ...entries } = JSON.parse(file.toString('utf8', 8, dataStart)) as {
    __metadata__: { case: string };
  } & Record<string, { dtype: 'F32' | 'I32'; shape: number[]; data_offsets: [number, number] }>;
  const tensors: GoldenCase['tensors'] = {};
  let indices = new Int32Array();
  for (const [tensorName, { dtype, shape, data_offsets }] of Object.entries(entries)) {
    const [start, end] = data_offsets;
    const { buffer } = new Uint8Array(file.subarray(dataStart + start, dataStart + end));
    if (dtype === 'I32') indices = new Int32Array(buffer);
    else tensors[tensorName] = { shape, values: new Float32Array(buffer) };
  }
  return { config: JSON.parse(metadata.case) as ReferenceConfig, tensors, indices };
}
