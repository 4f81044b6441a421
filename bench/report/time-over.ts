// Time over tokens, or over threads, of every layer and dtype that was measured at several.

import { describeSizes, partName } from '../describe-layer.ts';
import { groupBy } from '../group-by.ts';
import type { Chart, Series } from './chart.ts';
import type { ReportedResult } from './read.ts';
import { amount, type Distinction, layerName, measured, namesOf } from './words.ts';

interface Variable {
  readonly of: 'tokens' | 'threads';
  /** What is the same in all of one chart. */
  readonly layer: (result: ReportedResult) => string;
  readonly distinctions: readonly Distinction[];
}

const PLACES = ['device', 'processor', 'instructionSet', 'version'] as const;

export const TOKENS: Variable = { of: 'tokens', layer: describeSizes, distinctions: ['threads', ...PLACES] };
export const THREADS: Variable = {
  of: 'threads',
  layer: result => `T ${result.tokens}, ${layerName(result)}`,
  distinctions: PLACES,
};

export function timeOver(variable: Variable, results: readonly ReportedResult[]): Chart[] {
  return groupBy(results, result => [variable.layer(result), result.dtype].join())
    .filter(group => new Set(group.map(result => result[variable.of])).size > 1)
    .map(group => chartOf(variable, group));
}

function chartOf({ of, layer, distinctions }: Variable, results: readonly ReportedResult[]): Chart {
  const name = namesOf(results, partName, distinctions);
  const lines = groupBy(results, name).map(group => group.toSorted((a, b) => a[of] - b[of]));
  const series = lines.flatMap((line, colour): Series[] => {
    const label = name(line[0]!);
    const points = line.map(result => [result[of], result.medianMs] as const);
    const floor = line.flatMap(({ floorMs, [of]: x }) =>
      floorMs === undefined ? [] : [[x, floorMs] as const],
    );
    const time: Series = { label, colour, draws: 'marked', points };
    return floor.length === 0
      ? [time]
      : [time, { label: `floor, ${label}`, colour, draws: 'dashes', points: floor }];
  });
  const title = `Time over ${of}: ${layer(results[0]!)}, ${results[0]!.dtype}`;
  return {
    title,
    summary: lines.map(line => describeLine(of, name(line[0]!), line)).join(' '),
    x: { label: of, scale: 'log2' },
    y: { label: 'ms', scale: 'log10' },
    series,
    table: {
      caption: title,
      head: ['Pass', of, 'Median (ms)', 'Floor (ms)'],
      names: 1,
      rows: lines.flatMap(line =>
        line.map(result => [
          ...[name(result), `${result[of]}`, measured(result.medianMs)],
          result.floorMs === undefined ? '–' : measured(result.floorMs),
        ]),
      ),
    },
  };
}

function describeLine(of: Variable['of'], name: string, line: readonly ReportedResult[]): string {
  const at = (result: ReportedResult) => `${measured(result.medianMs)} ms at ${amount(result[of], of)}`;
  return `${name}: ${[...new Set([line[0]!, line.at(-1)!])].map(at).join(', ')}.`;
}
