// How many rows each expert got, once for every layer, number of tokens and routing.

import { groupBy } from '../group-by.ts';
import type { Chart } from './chart.ts';
import type { ReportedResult } from './read.ts';
import { counted, layerName } from './words.ts';

export function expertLoads(results: readonly ReportedResult[]): Chart[] {
  return groupBy(results, result => [result.tokens, layerName(result), ...result.expertLoad].join()).map(
    chartOf,
  );
}

function chartOf(results: readonly ReportedResult[]): Chart {
  const { tokens, expertLoad } = results[0]!;
  const dtypes = [...new Set(results.map(({ dtype }) => dtype))].join(', ');
  const title = `Rows of each expert: T ${tokens}, ${layerName(results[0]!)} (${dtypes})`;
  const even = expertLoad.reduce((a, b) => a + b) / expertLoad.length;
  const least = Math.min(...expertLoad);
  const most = Math.max(...expertLoad);
  return {
    title,
    summary: `${counted(least)} to ${counted(most)} rows on ${expertLoad.length} experts, ${counted(even)} if all had as many.`,
    x: { label: 'expert', scale: 'linear' },
    y: { label: 'rows', scale: 'linear' },
    series: [
      { label: 'rows', colour: 0, draws: 'bars', points: expertLoad.map((rows, expert) => [expert, rows]) },
      { label: 'even', colour: 1, draws: 'dashes', points: expertLoad.map((_, expert) => [expert, even]) },
    ],
    table: {
      caption: title,
      head: ['Expert', 'Rows'],
      names: 1,
      rows: expertLoad.map((rows, expert) => [`${expert}`, counted(rows)]),
    },
  };
}
