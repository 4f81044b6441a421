// How many times as long as ours other implementations take, over the tokens of every layer, dtype and pass that has any beside it.

import { describeSizes, partName } from '../describe-layer.ts';
import { groupBy } from '../group-by.ts';
import type { PeerResult } from '../peers/race.ts';
import type { Chart, Series } from './chart.ts';
import type { ReportedResult } from './read.ts';
import { measured, namesOf } from './words.ts';

/** A result and one of its peers. */
interface Pair extends ReportedResult {
  readonly other: PeerResult;
}

export function besideOthers(results: readonly ReportedResult[]): Chart[] {
  const pairs = results.flatMap(result => (result.vs ?? []).map((other): Pair => ({ ...result, other })));
  return groupBy(pairs, pair => [describeSizes(pair), pair.dtype, partName(pair)].join()).map(chartOf);
}

function chartOf(pairs: readonly Pair[]): Chart {
  const places = ['threads', 'device', 'processor', 'instructionSet', 'version'] as const;
  const name = namesOf(pairs, ({ other }) => `${other.peer} in ${other.dtype}`, places);
  const lines = groupBy(pairs, name).map(line => line.toSorted((a, b) => a.tokens - b.tokens));
  const first = pairs[0]!;
  const title = `Times ours: ${describeSizes(first)}, ${first.dtype}, ${partName(first)}`;
  return {
    title,
    summary: lines.map(line => describeLine(name(line[0]!), line)).join(' '),
    x: { label: 'tokens', scale: 'log2' },
    y: { label: 'times ours', scale: 'log10' },
    series: [
      ourLine(pairs),
      ...lines.map((line, i): Series => {
        const points = line.map(({ tokens, other }) => [tokens, other.ratio] as const);
        const intervals = line.map(({ other }) => [other.ratioLow, other.ratioHigh] as const);
        return { label: name(line[0]!), colour: i + 1, draws: 'marked', points, intervals };
      }),
    ],
    table: {
      caption: title,
      head: ['Peer', 'Version', 'T', 'Ours (ms)', 'Peer (ms)', 'Times ours', '95 % interval'],
      names: 2,
      rows: lines
        .flat()
        .map(pair => [
          ...[name(pair), pair.other.version, `${pair.tokens}`],
          ...[measured(pair.medianMs), measured(pair.other.medianMs), measured(pair.other.ratio)],
          `${measured(pair.other.ratioLow)}–${measured(pair.other.ratioHigh)}`,
        ]),
    },
  };
}

/** Past the first and the last tokens, which may be the same. */
function ourLine(pairs: readonly Pair[]): Series {
  const tokens = pairs.map(pair => pair.tokens);
  const points = [Math.min(...tokens) / 2, Math.max(...tokens) * 2].map(x => [x, 1] as const);
  return { label: 'ours', colour: 0, draws: 'dashes', points };
}

function describeLine(name: string, line: readonly Pair[]): string {
  const at = ({ tokens, other }: Pair) => `${measured(other.ratio)} times ours at ${tokens} tokens`;
  return `${name}: ${[...new Set([line[0]!, line.at(-1)!])].map(at).join(', ')}.`;
}
