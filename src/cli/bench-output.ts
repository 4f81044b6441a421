// What `moe-kernels bench` prints once all is measured: a table for each layer in 80 columns for people, or CSV.

import { isWarm } from '../../bench/campaign.ts';
import { describeSizes, partName } from '../../bench/describe-layer.ts';
import { groupBy } from '../../bench/group-by.ts';
import { SCALAR_FIELDS } from '../../bench/result-file.ts';
import { isNamed } from '../../bench/shapes.ts';
import type { ComparedResult } from '../../bench/verdict.ts';
import { digits, printLine, printPlainTable } from './output.ts';

const HEAD = ['case', 'median ms (95 %)', 'TFLOP/s', 'floor'];
const ALIGNMENT = ['left', 'right', 'right', 'right', 'left'] as const;

export function printResults(results: readonly ComparedResult[], { csv }: { csv: boolean }): void {
  if (csv) printCsv(results);
  else if (results.length > 0) printTables(results);
}

function printTables(results: readonly ComparedResult[]): void {
  printLine('Checked first. floor: the least time possible here, as a share of the median.');
  if (results.some(({ imprecise }) => imprecise))
    printLine('~: out of time before the interval was as narrow as --precision asks.');
  const compared = results.some(({ baseline }) => baseline !== undefined);
  for (const group of groupBy(results, describeLayer)) {
    printLine(`\n${describeLayer(group[0]!)}`);
    printPlainTable(compared ? [...HEAD, 'baseline'] : HEAD, group.map(tableRow), ALIGNMENT);
  }
}

/** All but the tokens, which rows have. */
function describeLayer(result: ComparedResult): string {
  const { shape, device, deviceName, instructionSet } = result;
  const place = `${device}${isWarm(result) ? ' warm' : ''} (${deviceName ?? instructionSet})`;
  return `${isNamed(shape) ? `${shape}: ` : ''}${describeSizes(result)}, ${place}`;
}

function tableRow(result: ComparedResult): string[] {
  const { tokens, dtype, device, threads, medianMs, lowMs, highMs, imprecise } = result;
  const { tflops, floorMs, baseline } = result;
  const median = `${imprecise ? '~' : ''}${milliseconds(medianMs)}`;
  return [
    `T${tokens} ${dtype} ${partName(result)}${device === 'cpu' ? ` ×${threads}` : ''}`,
    `${median} (${milliseconds(lowMs)}–${milliseconds(highMs)})`,
    tflops > 0 ? tflops.toPrecision(3) : '–',
    floorMs === undefined ? '–' : `${((100 * floorMs) / medianMs).toFixed(0)} %`,
    ...(baseline ? [`${digits(baseline.ratio, 3, 2)} ${baseline.verdict}`] : []),
  ];
}

/** Four digits, down to the microsecond. */
function milliseconds(value: number): string {
  return digits(value, 4, 3);
}

/** As RFC 4180 has it. */
function printCsv(results: readonly ComparedResult[]): void {
  const fields = Object.keys(SCALAR_FIELDS) as (keyof typeof SCALAR_FIELDS)[];
  const head = [...fields, 'baselineMedianMs', 'baselineRatio', 'baselineVerdict'];
  const rows = results.map(({ baseline, ...result }) =>
    [...fields.map(field => result[field]), baseline?.medianMs, baseline?.ratio, baseline?.verdict].map(
      value => `${value ?? ''}`,
    ),
  );
  for (const row of [head, ...rows]) process.stdout.write(`${row.map(quoted).join()}\r\n`);
}

function quoted(cell: string): string {
  return /[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
}
