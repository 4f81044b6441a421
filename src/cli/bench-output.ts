// What `moe-kernels bench` prints once all is measured: a table for each layer in 80 columns for people, or CSV.

import { describeSizes, partName } from '../../bench/describe-layer.ts';
import { groupBy } from '../../bench/group-by.ts';
import type { PeerResult } from '../../bench/peers/race.ts';
import { PEER_FIELDS, SCALAR_FIELDS } from '../../bench/result-file.ts';
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
    printPeers(group);
  }
}

const PEER_HEAD = ['case', 'its median ms (p10–p90)', 'times ours (95 %)'];

/** A table for each peer that was measured beside the layer, and each dtype it ran in. */
function printPeers(results: readonly ComparedResult[]): void {
  const pairs = results.flatMap(result => (result.vs ?? []).map(peer => ({ result, peer })));
  for (const group of groupBy(pairs, ({ peer }) => describePeer(peer))) {
    printLine(`\nbeside ${describePeer(group[0]!.peer)}`);
    printPlainTable(
      PEER_HEAD,
      group.map(({ result, peer }) => peerRow(result, peer)),
      ALIGNMENT,
    );
  }
}

function describePeer({ peer, version, dtype, threads }: PeerResult): string {
  return `${peer} ${version}, in ${dtype}, ×${threads}`;
}

function peerRow(result: ComparedResult, { medianMs, p10Ms, p90Ms, ...rest }: PeerResult): string[] {
  const [ratio, low, high] = [rest.ratio, rest.ratioLow, rest.ratioHigh].map(value => digits(value, 3, 2));
  return [
    caseName(result),
    `${milliseconds(medianMs)} (${milliseconds(p10Ms)}–${milliseconds(p90Ms)})`,
    `${ratio} (${low}–${high})`,
  ];
}

function caseName(result: ComparedResult): string {
  const { tokens, dtype, device, threads } = result;
  return `T${tokens} ${dtype} ${partName(result)}${device === 'cpu' ? ` ×${threads}` : ''}`;
}

/** All but the tokens, which rows have. */
function describeLayer(result: ComparedResult): string {
  const { shape, device, deviceName, instructionSet } = result;
  const place = `${device}${result.cache === 'warm' ? ' warm' : ''} (${deviceName ?? instructionSet})`;
  return `${isNamed(shape) ? `${shape}: ` : ''}${describeSizes(result)}, ${place}`;
}

function tableRow(result: ComparedResult): string[] {
  const { medianMs, lowMs, highMs, imprecise, tflops, floorMs, baseline } = result;
  const median = `${imprecise ? '~' : ''}${milliseconds(medianMs)}`;
  return [
    caseName(result),
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
  const columns = [...OWN_COLUMNS, ...peerColumns(results)];
  const rows = results.map(result => columns.map(([, cell]) => `${cell(result) ?? ''}`));
  for (const row of [columns.map(([name]) => name), ...rows])
    process.stdout.write(`${row.map(quoted).join()}\r\n`);
}

type Column = readonly [name: string, cell: (result: ComparedResult) => unknown];

const OWN_COLUMNS: readonly Column[] = [
  ...keysOf(SCALAR_FIELDS).map((field): Column => [field, result => result[field]]),
  ['baselineMedianMs', ({ baseline }) => baseline?.medianMs],
  ['baselineRatio', ({ baseline }) => baseline?.ratio],
  ['baselineVerdict', ({ baseline }) => baseline?.verdict],
];

/** For each peer that was measured, as `loop.medianMs`. */
function peerColumns(results: readonly ComparedResult[]): Column[] {
  const names = new Set(results.flatMap(({ vs = [] }) => vs.map(({ peer }) => peer)));
  return [...names].flatMap(name =>
    keysOf(PEER_FIELDS)
      .filter(field => field !== 'peer')
      .map(
        (field): Column => [`${name}.${field}`, ({ vs }) => vs?.find(({ peer }) => peer === name)?.[field]],
      ),
  );
}

function keysOf<K extends string>(fields: Readonly<Record<K, unknown>>): K[] {
  return Object.keys(fields) as K[];
}

function quoted(cell: string): string {
  return /[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
}
