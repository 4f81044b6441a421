// What the commands print: tables for people, JSON lines for programs, errors in one sentence on stderr.

import Table, { type TableConstructorOptions } from 'cli-table3';
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

/** Never in powers of ten, which nobody reads in a table. */
export function digits(value: number, count: number, mostDecimals: number): string {
  const decimals = count - 1 - Math.floor(Math.log10(value));
  return value.toFixed(Math.min(mostDecimals, Math.max(0, decimals)));
}

type Alignment = 'left' | 'right';

export function printTable(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  colAligns: readonly Alignment[],
): void {
  printLine(layOut(head, rows, { colAligns: [...colAligns] }));
}

/** Without lines, for tables that would be too wide with them. */
export function printPlainTable(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  colAligns: readonly Alignment[],
): void {
  const padding = { 'padding-left': 0, 'padding-right': 0 };
  printLine(layOut(head, rows, { colAligns: [...colAligns], chars: NO_LINES, style: padding }));
}

const NO_LINES = {
  ...{ top: '', 'top-left': '', 'top-mid': '', 'top-right': '' },
  ...{ bottom: '', 'bottom-left': '', 'bottom-mid': '', 'bottom-right': '' },
  ...{ mid: '', 'left-mid': '', 'mid-mid': '', 'right-mid': '' },
  ...{ left: '', middle: '  ', right: '' },
};

function layOut(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  options: TableConstructorOptions,
): string {
  const style = { head: [], border: [], compact: true, ...options.style };
  const table = new Table({ ...options, head: [...head], style });
  for (const row of rows) table.push([...row]);
  return table.toString();
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

/** Says what is no error, beside the results. */
export function writeNote(note: string, json: boolean): void {
  process.stderr.write(json ? `${toJson({ note })}\n` : `moe-kernels: ${note}\n`);
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
