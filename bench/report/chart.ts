// A chart as data for the page's script, with the table that says the same in words.

import { type Html, html, renderTable, scriptJson, type Table } from './html.ts';

export interface Axis {
  readonly label: string;
  readonly scale: 'log2' | 'log10' | 'linear';
}

export interface Series {
  readonly label: string;
  /** Index into the colours of the page. */
  readonly colour: number;
  readonly draws: 'line' | 'marked' | 'dashes' | 'points' | 'bars';
  /** x and y, ascending by x. */
  readonly points: readonly (readonly [number, number])[];
  /** From where to where the y of each point may lie. */
  readonly intervals?: readonly (readonly [number, number])[];
  /** What to write beside each point. */
  readonly labels?: readonly string[];
}

export interface Chart {
  readonly title: string;
  /** What is to be seen, for those who do not see it. */
  readonly summary: string;
  readonly x: Axis;
  readonly y: Axis;
  readonly series: readonly Series[];
  readonly table: Table;
}

export function renderChart({ title, summary, table, ...drawn }: Chart): Html {
  return html`<figure>
<figcaption>${title}</figcaption>
<div class="chart" role="img" aria-label="${`${title}. ${summary}`}"><script type="application/json">${scriptJson(drawn)}</script></div>
<details><summary>As a table</summary>${renderTable(table)}</details>
</figure>`;
}
