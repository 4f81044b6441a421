// Results in a file, one JSON object a line, each written as soon as it is there: what a campaign that was stopped goes on from, and
// what a later one is compared with.

import { appendFileSync, readFileSync } from 'node:fs';
import { describe } from '../src/dtype.ts';
import { badArgument, type MoeError } from '../src/errors.ts';
import { parseStrictJson } from '../src/strict-json.ts';
import type { BenchResult } from './result.ts';

type Kind = 'text' | 'number' | 'optional number' | 'optional flag';

/** Every field of a result but the list `expertLoad`. */
export const SCALAR_FIELDS = {
  ...{ shape: 'text', dtype: 'text', device: 'text', pass: 'text', threads: 'number', tf32: 'optional flag' },
  ...{ medianMs: 'number', lowMs: 'number', highMs: 'number', p10Ms: 'number', p90Ms: 'number' },
  ...{ minMs: 'number', runs: 'number', flops: 'number', bytes: 'number', tflops: 'number' },
  ...{ floorMs: 'optional number', flopsPerSecond: 'optional number', bytesPerSecond: 'optional number' },
  ...{ tokens: 'number', hidden: 'number', intermediate: 'number', experts: 'number', topK: 'number' },
  ...{ activation: 'text', instructionSet: 'text', processor: 'text', version: 'text', date: 'text' },
} as const satisfies Record<Exclude<keyof BenchResult, 'expertLoad'>, Kind>;

/**
 * @param name what the sentence of an error begins with
 * @throws MoeError ERR_FILE if the file cannot be read or a line is no result
 */
export function readResults(name: string, path: string): BenchResult[] {
  return parseResults(
    name,
    path,
    attempt(name, path, 'a readable file', () => readFileSync(path, 'utf8')),
  );
}

/** Results that are added to a file, which is made where there is none. */
export class ResultFile {
  readonly #name: string;
  readonly #path: string;
  /** What the file held at first. */
  readonly results: readonly BenchResult[];

  /** @throws MoeError ERR_FILE if the file cannot be read or written, or a line is no result */
  constructor(name: string, path: string) {
    this.#name = name;
    this.#path = path;
    this.#append('');
    const text = attempt(name, path, 'a readable file', () => readFileSync(path, 'utf8'));
    this.results = parseResults(name, path, text);
    if (text !== '' && !text.endsWith('\n')) this.#append('\n');
  }

  append(result: BenchResult): void {
    this.#append(`${JSON.stringify(result)}\n`);
  }

  #append(text: string): void {
    attempt(this.#name, this.#path, 'a writable file', () => appendFileSync(this.#path, text));
  }
}

function attempt<T>(name: string, path: string, expected: string, act: () => T): T {
  try {
    return act();
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw badArgument('ERR_FILE', name, expected, `${path} (${code ?? message})`);
  }
}

function parseResults(name: string, path: string, text: string): BenchResult[] {
  const lines = text.split('\n');
  if (lines.at(-1) === '') lines.pop();
  return lines.map((line, i) => parseResult(`${name}: line ${i + 1} of ${path}`, line));
}

function parseResult(name: string, line: string): BenchResult {
  const value = parseLine(name, line) as BenchResult | null;
  for (const [field, kind] of Object.entries(SCALAR_FIELDS)) {
    const part = value?.[field as keyof typeof SCALAR_FIELDS];
    if (!isOfKind(part, kind)) throw noResult(name, `${describe(part)} as ${field}`);
  }
  const load = value!.expertLoad;
  if (!Array.isArray(load) || !load.every(rows => isOfKind(rows, 'number'))) {
    throw noResult(name, `${describe(load)} as expertLoad`);
  }
  return value!;
}

function parseLine(name: string, line: string): unknown {
  try {
    return parseStrictJson(line);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw noResult(name, describe(line));
  }
}

function isOfKind(value: unknown, kind: Kind): boolean {
  if (kind.startsWith('optional') && value === undefined) return true;
  if (kind === 'text') return typeof value === 'string';
  return kind === 'optional flag' ? value === true : Number.isFinite(value);
}

function noResult(name: string, got: string): MoeError {
  return badArgument('ERR_FILE', name, 'a result of moe-kernels bench', got);
}
