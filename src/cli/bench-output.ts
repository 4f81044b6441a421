// What `moe-kernels bench` prints once all is measured: a table for each layer in 80 columns for people, or CSV.

import { groupBy } from '../../bench/campaign.ts';
import type { BenchResult } from '../../bench/result.ts';
import { SCALAR_FIELDS } from '../../bench/result-file.ts';
import { isNamed } from '../../bench/shapes.ts';
import { digits, printLine, printPlainTable } from './output.ts';

const HEAD = ['case', 'median ms (95 %)', 'TFLOP/s', 'floor'];

export function printResults(results: readonly BenchResult[], { csv }: { csv: boolean }): void {
  if (csv) printCsv(results);
  else if (results.length > 0) printTables(results);
}

function printTables(results: readonly BenchResult[]): void {
  printLine('Checked first. floor: the least time possible here, as a share of the median.');
  for (const group of groupBy(results, describeLayer)) {
    printLine(`\n${describeLayer(group[0]!)}`);
    printPlainTable(HEAD, group.map(tableRow), ['left', 'right', 'right', 'right']);
  }
}

/** All but the tokens, which rows have. */
function describeLayer(result: BenchResult): string {
  const { shape, hidden, intermediate, experts, topK, activation, device, instructionSet } = result;
  const sizes = `H ${hidden}, I ${intermediate}, E ${experts}, K ${topK}`;
  return `${isNamed(shape) ? `${shape}: ` : ''}${sizes}, ${activation}, ${device} (${instructionSet})`;
}

function tableRow({ tokens, dtype, pass, threads, ...rest }: BenchResult): string[] {
  const { medianMs, lowMs, highMs, tflops, floorMs } = rest;
  return [
    `T${tokens} ${dtype} ${pass} ×${threads}`,
    `${milliseconds(medianMs)} (${milliseconds(lowMs)}–${milliseconds(highMs)})`,
    tflops.toPrecision(3),
    floorMs === undefined ? '–' : `${((100 * floorMs) / medianMs).toFixed(0)} %`,
  ];
}

/** Four digits, down to the microsecond. */
function milliseconds(value: number): string {
  return digits(value, 4, 3);
}

/** As RFC 4180 has it. */
function printCsv(results: readonly BenchResult[]): void {
  const fields = Object.keys(SCALAR_FIELDS) as (keyof typeof SCALAR_FIELDS)[];
  const rows = results.map(result => fields.map(field => `${result[field] ?? ''}`));
  for (const row of [fields, ...rows]) process.stdout.write(`${row.map(quoted).join()}\r\n`);
}

function quoted(cell: string): string {
  return /[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
}
