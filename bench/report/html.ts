// HTML as a template in which every value is escaped unless it is HTML already.

export class Html {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

type Part = string | number | Html | readonly Part[];

export function html(literals: TemplateStringsArray, ...parts: readonly Part[]): Html {
  return new Html(String.raw({ raw: literals }, ...parts.map(toText)));
}

function toText(part: Part): string {
  if (part instanceof Html) return part.text;
  if (typeof part === 'object') return part.map(toText).join('');
  return String(part).replace(/[&<>"']/g, char => `&#${char.charCodeAt(0)};`);
}

/** JSON in which nothing can end its script element early. */
export function scriptJson(value: unknown): Html {
  return new Html(JSON.stringify(value).replaceAll('<', '\\u003c'));
}

type Cell = string | Html;

export interface Table {
  readonly caption: string;
  readonly head: readonly string[];
  /** The first `names` cells of a row are words, the others numbers. */
  readonly names: number;
  readonly rows: readonly (readonly Cell[])[];
}

/** Scrolls by itself where it is wider than the page. */
export function renderTable({ caption, head, names, rows }: Table): Html {
  const cell = (text: Cell, i: number) =>
    i === 0 ? html`<th scope="row">${text}</th>` : html`<td${numeric(i)}>${text}</td>`;
  const numeric = (i: number) => (i < names ? '' : new Html(' class="number"'));
  return html`<div class="wide" role="region" tabindex="0" aria-label="${caption}"><table>
<caption><span>${caption}</span></caption>
<thead><tr>${head.map((text, i) => html`<th scope="col"${numeric(i)}>${text}</th>`)}</tr></thead>
<tbody>${rows.map(row => html`<tr>${row.map(cell)}</tr>\n`)}</tbody>
</table></div>`;
}
