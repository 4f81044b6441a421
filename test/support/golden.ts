// Reads a golden case: a safetensors file is a header length, a JSON header and the tensors' bytes.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { LayerConfig } from './layer.ts';

export interface GoldenCase {
  config: LayerConfig;
  /** Every float tensor of the file by name. */
  tensors: { [name: string]: { shape: number[]; values: Float32Array } };
  /** [T, K], ascending by id */
  indices: Int32Array;
}

export const GOLDEN_CASES = [
  'deepseek_v2',
  'deepseek_v3',
  'gpt_oss',
  'granitemoe',
  'grok1',
  'jamba',
  'llama4',
  'mixtral',
  'nemotron_h',
  'switch',
] as const;

export type GoldenName = (typeof GOLDEN_CASES)[number];

export const goldenPath = (name: GoldenName) =>
  fileURLToPath(new URL(`../golden/${name}.safetensors`, import.meta.url));

export function readGolden(name: GoldenName): GoldenCase {
  const file = readFileSync(goldenPath(name));
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
  return { config: readNumbers(JSON.parse(metadata.case)) as LayerConfig, tensors, indices };
}

/** A configuration of the form; JSON has no infinities, so that `"-inf"` stands for one. */
export function readNumbers(config: unknown): unknown {
  return JSON.parse(JSON.stringify(config), (_, value) => (value === '-inf' ? -Infinity : value));
}
