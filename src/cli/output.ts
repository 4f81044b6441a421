// What the commands print: tables for people, JSON lines for programs, errors in one sentence on stderr.

import Table from 'cli-table3';
import { CommanderError } from 'commander';
import type { Comparison } from '../compare.ts';
import { MoeError } from '../errors.ts';

/** 0 holds; 1 does not hold; 2 wrong usage, unreadable or unsupported. */
export type ExitCode = 0 | 1 | 2;

export function printLine(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** One line of JSON; NaN and Infinity, which JSON lacks, are written as strings. */
export function printJson(value: object): void {
  printLine(toJson(value));
}

function toJson(value: object): string {
  return JSON.stringify(value, (_, part) =>
    typeof part === 'number' && !Number.isFinite(part) ? String(part) : part,
  );
}

type Alignment = 'left' | 'right';

export function printTable(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  colAligns: readonly Alignment[],
): void {
  const style = { head: [], border: [], compact: true };
  const table = new Table({ head: [...head], colAligns: [...colAligns], style });
  for (const row of rows) table.push([...row]);
  printLine(table.toString());
}

export function printComparisons(comparisons: readonly Comparison[]): void {
  const rows = comparisons.map(({ name, error, bound, holds }) => [
    name,
    formatError(error),
    formatError(bound),
    holds ? 'holds' : 'DOES NOT HOLD',
  ]);
  printTable(['tensor', 'relative error', 'bound', 'verdict'], rows, ['left', 'right', 'right', 'left']);
}

function formatError(value: number): string {
  return value === 0 ? '0' : value.toExponential(2);
}

/** Says what went wrong and returns the exit code that goes with it. */
export function reportError(error: unknown, json: boolean): ExitCode {
  writeError(describeError(error), json);
  return 2;
}

export interface ErrorDescription {
  readonly code: string;
  readonly message: string;
}

export function writeError(error: ErrorDescription, json: boolean): void {
  process.stderr.write(json ? `${toJson({ error })}\n` : `moe-kernels: ${error.message}\n`);
}

export function describeError(error: unknown): ErrorDescription {
  if (error instanceof MoeError) return { code: error.code, message: error.message };
  if (error instanceof CommanderError) {
    const message =
      error.code === 'commander.help' ? 'expected a command (moe-kernels --help lists them)' : error.message;
    return { code: 'ERR_INVALID_ARGUMENT', message: message.replace(/^error: /, '').replaceAll('\n', ' ') };
  }
  return { code: 'ERR_INTERNAL', message: (error as Error).stack ?? String(error) };
}
