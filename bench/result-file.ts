// Results of `bench` and `profile` in a file, one JSON object a line, each written as soon as it is there: what a campaign that was
// stopped goes on from, what a later one is compared with, and what a page is made of.

import { appendFileSync, readFileSync } from 'node:fs';
import { describe } from '../src/dtype.ts';
import { badArgument, type MoeError } from '../src/errors.ts';
import { parseStrictJson } from '../src/strict-json.ts';
import { reading, writing } from './file-access.ts';
import type { PeerResult } from './peers/race.ts';
import type { ProfileResult, StageResult } from './profile.ts';
import type { BenchResult } from './result.ts';

/** A line. */
export type Result = BenchResult | ProfileResult;

export function isProfile(result: Result): result is ProfileResult {
  return 'stages' in result;
}

export function isBench(result: Result): result is BenchResult {
  return !isProfile(result);
}

/** What a field must be; where it may lack, `undefined` is. */
type Check = (value: unknown) => boolean;

const isText: Check = value => typeof value === 'string';
const isPositive: Check = value => typeof value === 'number' && value > 0 && Number.isFinite(value);
const isNotNegative: Check = value => value === 0 || isPositive(value);
const isDate: Check = value => typeof value === 'string' && !Number.isNaN(Date.parse(value));
const isFlag: Check = value => value === true;
const isLoad: Check = value =>
  Array.isArray(value) && value.length > 0 && value.every(rows => Number.isInteger(rows) && rows >= 0);
const isVs: Check = value => Array.isArray(value) && value.every(isPeerResult);
const optional =
  (check: Check): Check =>
  value =>
    value === undefined || check(value);

/** Every field of a result but its lists. */
export const SCALAR_FIELDS: Readonly<Record<Exclude<keyof BenchResult, 'expertLoad' | 'vs'>, Check>> = {
  ...{
    shape: isText,
    dtype: isText,
    device: isText,
    pass: isText,
    threads: isPositive,
    tf32: optional(isFlag),
    graph: optional(isFlag),
  },
  ...{ medianMs: isPositive, lowMs: isPositive, highMs: isPositive, p10Ms: isPositive, p90Ms: isPositive },
  ...{ minMs: isPositive, runs: isPositive, clock: isText },
  ...{ flops: isNotNegative, bytes: isPositive, tflops: isNotNegative },
  ...{
    floorMs: optional(isPositive),
    flopsPerSecond: optional(isPositive),
    bytesPerSecond: optional(isPositive),
  },
  ...{ rulers: optional(isPositive), rulersLow: optional(isPositive), rulersHigh: optional(isPositive) },
  ...{ imprecise: optional(isFlag), minTimeMs: isPositive, maxTimeMs: isPositive, precision: isPositive },
  ...{ cache: isText, copies: isPositive, peakBytes: optional(isPositive) },
  ...{
    tokens: isPositive,
    hidden: isPositive,
    intermediate: isPositive,
    experts: isPositive,
    topK: isPositive,
  },
  ...{ activation: isText, router: optional(isText), skew: optional(isText), stage: optional(isText) },
  ...{ instructionSet: isText, processor: isText, version: isText },
  ...{ deviceName: optional(isText), computeCapability: optional(isText), clockMHz: optional(isPositive) },
  ...{ cudaDriver: optional(isText), cudaRuntime: optional(isText) },
  date: isDate,
};

/** Every field of a peer's result. */
export const PEER_FIELDS: Readonly<Record<keyof PeerResult, Check>> = {
  ...{ peer: isText, version: isText, dtype: isText, threads: isPositive },
  ...{ medianMs: isPositive, p10Ms: isPositive, p90Ms: isPositive, runs: isPositive },
  ...{ difference: isNotNegative, ratio: isPositive, ratioLow: isPositive, ratioHigh: isPositive },
};
const isPeerResult: Check = value => hasFields(value, PEER_FIELDS);

const STAGE_FIELDS: Readonly<Record<keyof StageResult, Check>> = {
  ...{ op: isText, stage: optional(isText), medianMs: isNotNegative, floorMs: optional(isPositive) },
  ...{ flops: optional(isNotNegative), bytes: optional(isPositive), inFloat32: optional(isFlag) },
};
const isStage: Check = value => hasFields(value, STAGE_FIELDS);

function hasFields(value: unknown, fields: Readonly<Record<string, Check>>): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return Object.entries(fields).every(([field, holds]) => holds(value[field as keyof typeof value]));
}

const PROFILE_FIELDS: Readonly<Record<keyof ProfileResult, Check>> = {
  ...scalarFields('shape', 'dtype', 'device', 'pass', 'threads', 'router', 'skew', 'clock'),
  ...scalarFields('medianMs', 'lowMs', 'highMs', 'p10Ms', 'p90Ms', 'minMs', 'runs'),
  ...{ flopsPerSecond: isPositive, bytesPerSecond: isPositive, totalMs: isPositive },
  stages: value => Array.isArray(value) && value.length > 0 && value.every(isStage),
  /** A difference. */
  betweenMs: value => Number.isFinite(value),
  ...scalarFields('tokens', 'hidden', 'intermediate', 'experts', 'topK', 'activation'),
  ...scalarFields('instructionSet', 'processor', 'version', 'date'),
  ...scalarFields('deviceName', 'computeCapability', 'clockMHz', 'cudaDriver', 'cudaRuntime'),
};

function scalarFields<K extends keyof typeof SCALAR_FIELDS>(...names: K[]): Record<K, Check> {
  return Object.fromEntries(names.map(name => [name, SCALAR_FIELDS[name]])) as Record<K, Check>;
}

/** What a line may be: the command that makes it, and its fields. */
const KINDS = {
  bench: { ...SCALAR_FIELDS, expertLoad: isLoad, vs: optional(isVs) },
  profile: PROFILE_FIELDS,
} as const;
type Kind = keyof typeof KINDS;

/**
 * @param name what the sentence of an error begins with
 * @throws MoeError ERR_FILE if the file cannot be read or a line is no result
 */
export function readResults(name: string, path: string): Result[] {
  return parseResults(
    name,
    path,
    reading(name, path, () => readFileSync(path, 'utf8')),
  );
}

/** Results that are added to a file, which is made where there is none. */
export class ResultFile {
  readonly #name: string;
  readonly #path: string;
  /** What the file held at first. */
  readonly results: readonly Result[];

  /** @throws MoeError ERR_FILE if the file cannot be read or written, or a line is no result */
  constructor(name: string, path: string) {
    this.#name = name;
    this.#path = path;
    this.#append('');
    const text = reading(name, path, () => readFileSync(path, 'utf8'));
    this.results = parseResults(name, path, text);
    if (text !== '' && !text.endsWith('\n')) this.#append('\n');
  }

  append(result: Result): void {
    this.#append(`${JSON.stringify(result)}\n`);
  }

  #append(text: string): void {
    writing(this.#name, this.#path, () => appendFileSync(this.#path, text));
  }
}

function parseResults(name: string, path: string, text: string): Result[] {
  const lines = text.split('\n');
  if (lines.at(-1) === '') lines.pop();
  return lines.map((line, i) => parseResult(`${name}: line ${i + 1} of ${path}`, line));
}

function parseResult(name: string, line: string): Result {
  const value = parseLine(name, line) as Result | null;
  if (typeof value !== 'object' || value === null) throw noResult(name, describe(value));
  const kind = isProfile(value) ? 'profile' : 'bench';
  for (const [field, holds] of Object.entries(KINDS[kind])) {
    const part = value[field as keyof Result];
    if (!holds(part))
      throw noResult(name, `${part === undefined ? 'none' : describe(part)} as ${field}`, kind);
  }
  return value;
}

function parseLine(name: string, line: string): unknown {
  try {
    return parseStrictJson(line);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw noResult(name, describe(line));
  }
}

function noResult(name: string, got: string, kind?: Kind): MoeError {
  return badArgument('ERR_FILE', name, `a result of moe-kernels ${kind ?? 'bench or profile'}`, got);
}
