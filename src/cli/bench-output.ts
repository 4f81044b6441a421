// What `moe-kernels bench` shows people: a table for each layer, in 80 columns.

import { groupBy } from '../../bench/campaign.ts';
import type { BenchResult } from '../../bench/result.ts';
import { isNamed } from '../../bench/shapes.ts';
import { digits, printLine, printPlainTable } from './output.ts';

const HEAD = ['case', 'median ms (95 %)', 'TFLOP/s', 'floor'];

export function printResults(results: readonly BenchResult[]): void {
  printLine('Held against the reference first. floor: the least time this machine allows, over the median.');
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
