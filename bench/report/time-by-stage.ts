// Where the time of profiled layers goes: for every layer, dtype and pass a bar for each number of tokens, divided into stages.

import { describeSizes, stageName } from '../describe-layer.ts';
import { groupBy } from '../group-by.ts';
import { type Html, html, renderTable, type Table } from './html.ts';
import type { ReportedProfile } from './read.ts';
import { measured, namesOf, percent } from './words.ts';

export interface StageBars {
  readonly title: string;
  readonly bars: readonly Bar[];
  /** The names of all parts, in order. */
  readonly key: readonly { readonly name: string; readonly colour: Colour }[];
  readonly table: Table;
}

export interface Bar {
  readonly name: string;
  readonly totalMs: number;
  readonly parts: readonly Part[];
}

/** A stage, or what is between them. */
interface Part {
  readonly name: string;
  readonly ms: number;
  /** Of the bar. */
  readonly share: number;
  readonly shareOfFloor?: number;
  readonly colour: Colour;
}

/** One of the page's series, one per op; grey between stages. */
type Colour = number | 'muted';

const BETWEEN = 'between stages';

export function timeByStage(profiles: readonly ReportedProfile[]): StageBars[] {
  const ops = [...new Set(profiles.flatMap(({ stages }) => stages.map(({ op }) => op)))];
  return groupBy(profiles, profile => [describeSizes(profile), profile.dtype, profile.pass].join()).map(
    group => barsOf(group, ops),
  );
}

function barsOf(profiles: readonly ReportedProfile[], ops: readonly string[]): StageBars {
  const { dtype, pass } = profiles[0]!;
  const title = `Time by stage: ${describeSizes(profiles[0]!)}, ${dtype}, ${pass}`;
  const name = namesOf(profiles, ({ tokens }) => `T ${tokens}`, [
    ...['threads', 'device', 'processor', 'instructionSet', 'version', 'file'],
  ] as const);
  const bars = profiles
    .toSorted((a, b) => a.tokens - b.tokens || a.threads - b.threads)
    .map(profile => ({ name: name(profile), totalMs: profile.totalMs, parts: partsOf(profile, ops) }));
  const stages = new Map(bars.flatMap(({ parts }) => parts.map(({ name, colour }) => [name, colour])));
  stages.delete(BETWEEN);
  stages.set(BETWEEN, 'muted');
  return {
    title,
    bars,
    key: [...stages].map(([name, colour]) => ({ name, colour })),
    table: {
      caption: title,
      head: ['Layer', 'Stage', 'ms', 'Share', 'Of the floor'],
      names: 2,
      rows: bars.flatMap(({ name, totalMs, parts }) => [
        ...parts.map(part => [name, part.name, measured(part.ms), percent(part.share, 1), floorOf(part)]),
        [name, 'total', measured(totalMs), percent(1, 1), ''],
      ]),
    },
  };
}

function partsOf({ stages, betweenMs, totalMs }: ReportedProfile, ops: readonly string[]): Part[] {
  return [
    ...stages.map(({ op, stage, medianMs, floorMs }) => ({
      ...{ name: stageName({ op, stage }), ms: medianMs, share: medianMs / totalMs, colour: ops.indexOf(op) },
      ...(floorMs !== undefined && medianMs > 0 && { shareOfFloor: floorMs / medianMs }),
    })),
    { name: BETWEEN, ms: betweenMs, share: betweenMs / totalMs, colour: 'muted' },
  ];
}

function floorOf({ shareOfFloor }: Part): string {
  return shareOfFloor === undefined ? '–' : percent(shareOfFloor);
}

export function renderStageBars({ title, bars, key, table }: StageBars): Html {
  const numbers = new Map(key.map(({ name }, i) => [name, i + 1]));
  return html`<figure>
<figcaption>${title}</figcaption>
${bars.map(bar => renderBar(bar, numbers))}
<ol class="key">${key.map(({ name, colour }) => html`<li${hue(colour)}><b>${numbers.get(name)!}</b> ${name}</li>`)}</ol>
<details><summary>As a table</summary>${renderTable(table)}</details>
</figure>`;
}

/** In a narrower part its number would not fit. */
const NUMBERED = 0.05;
const HEIGHT = 34;
const STRIP = 6;

/** Below each part a strip: what of it is the floor. */
function renderBar({ name, totalMs, parts }: Bar, numbers: ReadonlyMap<string, number>): Html {
  let end = 0;
  const drawn = parts.map(part => {
    const width = Math.max(0, part.share);
    const floorWidth = width * Math.min(1, part.shareOfFloor ?? 0);
    const start = end;
    end += width;
    const floor = part.shareOfFloor === undefined ? '' : `; floor: ${percent(part.shareOfFloor)} of that`;
    const said = `${part.name}: ${measured(part.ms)} ms, ${percent(part.share, 1)}${floor}`;
    return html`<g${hue(part.colour)}><title>${said}</title>
<rect class="part" x="${across(start)}" width="${across(width)}" height="${HEIGHT}"/>
<rect class="floor" x="${across(start)}" y="${HEIGHT - STRIP}" width="${across(floorWidth)}" height="${STRIP}"/>
${width < NUMBERED ? '' : html`<text x="${across(start + width / 2)}" y="18">${numbers.get(part.name)!}</text>`}</g>`;
  });
  const largest = parts.toSorted((a, b) => b.share - a.share).slice(0, 3);
  const summary = largest.map(part => `${part.name} ${percent(part.share)}`).join(', ');
  const label = `${name}: ${measured(totalMs)} ms, most of it in ${summary}`;
  return html`<p class="bar-name">${name}: ${measured(totalMs)} ms</p>
<svg class="bar" role="img" aria-label="${label}" width="100%" height="${HEIGHT}">${drawn}</svg>`;
}

function across(share: number): string {
  return `${(100 * share).toFixed(3)}%`;
}

function hue(colour: Colour): Html {
  return html` style="--hue: var(--${colour === 'muted' ? 'muted' : `series-${colour % 6}`})"`;
}
