// Where each result stands under the machine's two ceilings.

import { groupBy } from '../group-by.ts';
import type { Chart, Series } from './chart.ts';
import type { ReportedResult } from './read.ts';
import { layerName, measured, namesOf, passLabel } from './words.ts';

interface Roof {
  /** 10⁹ FLOPs a second. */
  readonly peak: number;
  /** 10⁹ bytes a second. */
  readonly bandwidth: number;
}

export function intensity({ flops, bytes }: ReportedResult): number {
  return flops / bytes;
}

/** The highest of all runs: each has measured its own. */
function roofOf(results: readonly ReportedResult[]): Roof | undefined {
  const peaks = results.flatMap(({ flopsPerSecond }) => flopsPerSecond ?? []);
  const bandwidths = results.flatMap(({ bytesPerSecond }) => bytesPerSecond ?? []);
  if (peaks.length === 0 || bandwidths.length === 0) return undefined;
  return { peak: Math.max(...peaks) / 1e9, bandwidth: Math.max(...bandwidths) / 1e9 };
}

/** @param results in the order of the rows that number them */
export function roofline(results: readonly ReportedResult[]): Chart {
  const numbers = new Map(results.map((result, i) => [result, `${i + 1}`]));
  const name = namesOf(results, ({ dtype }) => dtype, ['device', 'processor', 'instructionSet']);
  const groups = groupBy(results, name).map(group => ({ name: name(group[0]!), group, roof: roofOf(group) }));
  const ridges = groups.flatMap(({ roof }) => (roof ? [roof.peak / roof.bandwidth] : []));
  const reach = [...results.map(intensity), ...ridges];
  const ends = [Math.min(...reach) / 2, Math.max(...reach) * 2] as const;
  const series = groups.flatMap(({ name, group, roof }, colour): Series[] => {
    const sorted = group.toSorted((a, b) => intensity(a) - intensity(b));
    const points = sorted.map(result => [intensity(result), 1000 * result.tflops] as const);
    const labels = sorted.map(result => numbers.get(result)!);
    const measuredPoints: Series = { label: name, colour, draws: 'points', points, labels };
    if (!roof) return [measuredPoints];
    return [{ label: `roof, ${name}`, colour, draws: 'line', points: outline(roof, ends) }, measuredPoints];
  });
  return {
    title: 'Speed over arithmetic intensity, under the ceilings of the machine',
    summary: `One point per result, numbered as in the table of results. ${groups.map(describeGroup).join(' ')}`,
    x: { label: 'FLOPs per byte', scale: 'log10' },
    y: { label: 'GFLOP/s', scale: 'log10' },
    series,
    table: {
      caption: 'Points of the roofline',
      head: ['Result', 'Layer', 'Dtype', 'Pass', 'FLOPs per byte', 'GFLOP/s', 'Roof there (GFLOP/s)'],
      names: 4,
      rows: groups.flatMap(({ group, roof }) =>
        group.map(result => [
          ...[
            numbers.get(result)!,
            `T ${result.tokens}, ${layerName(result)}`,
            result.dtype,
            passLabel(result),
          ],
          ...[measured(intensity(result)), measured(1000 * result.tflops)],
          roof ? measured(heightAt(roof, intensity(result))) : '–',
        ]),
      ),
    },
  };
}

function heightAt({ peak, bandwidth }: Roof, intensity: number): number {
  return Math.min(peak, bandwidth * intensity);
}

function outline(roof: Roof, [from, to]: readonly [number, number]): [number, number][] {
  return [from, roof.peak / roof.bandwidth, to].map(x => [x, heightAt(roof, x)]);
}

function describeGroup({ name, roof }: { name: string; roof: Roof | undefined }): string {
  if (!roof) return `${name}: no ceilings were measured.`;
  return `${name}: at most ${measured(roof.peak)} GFLOP/s and ${measured(roof.bandwidth)} GB/s.`;
}
