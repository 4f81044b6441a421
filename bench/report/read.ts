// Results from files of JSON lines, each with all that the page shows.

import { readFile } from 'node:fs/promises';
import { describe } from '../../src/dtype.ts';
import { badArgument, MoeError } from '../../src/errors.ts';
import type { BenchResult } from '../result.ts';

/** A result, and the file that it stands in. */
export interface ReportedResult extends BenchResult {
  readonly file: string;
}

type Check = (value: unknown) => boolean;

const isText: Check = value => typeof value === 'string';
const isPositive: Check = value => typeof value === 'number' && value > 0 && Number.isFinite(value);
const isLoad: Check = value =>
  Array.isArray(value) && value.length > 0 && value.every(rows => Number.isInteger(rows) && rows >= 0);
const isDate: Check = value => isText(value) && !Number.isNaN(Date.parse(value as string));

const TEXT: readonly [Check, string] = [isText, 'a string'];
const POSITIVE: readonly [Check, string] = [isPositive, 'a positive number'];

const NEEDED: Partial<Record<keyof BenchResult, readonly [Check, string]>> = {
  ...{ shape: TEXT, dtype: TEXT, device: TEXT, pass: TEXT, activation: TEXT },
  ...{ tokens: POSITIVE, hidden: POSITIVE, intermediate: POSITIVE, experts: POSITIVE, topK: POSITIVE },
  ...{ medianMs: POSITIVE, lowMs: POSITIVE, highMs: POSITIVE, p10Ms: POSITIVE, p90Ms: POSITIVE },
  ...{ threads: POSITIVE, flops: POSITIVE, bytes: POSITIVE, tflops: POSITIVE },
  ...{ instructionSet: TEXT, processor: TEXT, version: TEXT },
  expertLoad: [isLoad, 'counts of rows'],
  date: [isDate, 'a date'],
};

const WHERE_KNOWN: typeof NEEDED = {
  ...{ floorMs: POSITIVE, flopsPerSecond: POSITIVE, bytesPerSecond: POSITIVE },
};

/** @throws MoeError ERR_FILE for a file that cannot be read or has no result, and for a line that is none */
export async function readResults(files: readonly string[]): Promise<ReportedResult[]> {
  const results: ReportedResult[] = [];
  for (const file of files) results.push(...parseResults(file, await readText(file)));
  return results;
}

function parseResults(file: string, text: string): ReportedResult[] {
  const results = text
    .split('\n')
    .flatMap((line, i) => (line.trim() === '' ? [] : [parseLine(file, i + 1, line)]));
  if (results.length === 0) throw badArgument('ERR_FILE', file, 'results as lines of JSON', 'none');
  return results;
}

function parseLine(file: string, number: number, line: string): ReportedResult {
  const place = `${file}:${number}`;
  const value = parseObject(place, line);
  for (const [name, [holds, expected]] of Object.entries(NEEDED))
    if (!holds(value[name])) throw refused(place, name, expected, value[name]);
  for (const [name, [holds, expected]] of Object.entries(WHERE_KNOWN))
    if (value[name] !== undefined && !holds(value[name])) throw refused(place, name, expected, value[name]);
  return { ...(value as unknown as BenchResult), file };
}

function refused(place: string, name: string, expected: string, got: unknown): MoeError {
  return badArgument('ERR_FILE', `${place}: ${name}`, expected, got === undefined ? 'none' : describe(got));
}

function parseObject(place: string, line: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw badArgument('ERR_FILE', place, 'a result as JSON', describe(line));
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value))
    return value as Record<string, unknown>;
  throw badArgument('ERR_FILE', place, 'a result as JSON', describe(value));
}

async function readText(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    const { code = 'an error' } = cause as NodeJS.ErrnoException;
    throw new MoeError('ERR_FILE', `${file}: expected a readable file, got ${code}`, { cause });
  }
}
