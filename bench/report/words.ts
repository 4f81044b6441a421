// How the page writes numbers and names cases.

import { describeSizes } from '../describe-layer.ts';
import { groupBy } from '../group-by.ts';
import type { ReportedProfile, ReportedResult } from './read.ts';

const significant = new Intl.NumberFormat('en', { maximumSignificantDigits: 3, minimumSignificantDigits: 3 });
const grouped = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });

/** Three significant digits, in the unit that stands beside or above. */
export function measured(value: number): string {
  return significant.format(value);
}

export function counted(value: number): string {
  return grouped.format(value);
}

/** @param plural in s */
export function amount(count: number, plural: string): string {
  return `${count} ${count === 1 ? plural.slice(0, -1) : plural}`;
}

/** Of a whole. */
export function percent(share: number, decimals = 0): string {
  return `${(100 * share).toFixed(decimals)} %`;
}

/** Its sizes, and what it is called if that says more. */
export function layerName(result: ReportedResult): string {
  const { shape, tokens, hidden, intermediate, experts, topK } = result;
  const sizes = describeSizes(result);
  return shape === [tokens, hidden, intermediate, experts, topK].join() ? sizes : `${shape} (${sizes})`;
}

/** With the name of a GPU: another machine's first GPU is another device. */
export function deviceLabel({ device, deviceName }: ReportedResult | ReportedProfile): string {
  return deviceName === undefined ? device : `${device} (${deviceName})`;
}

export function differ<R>(results: readonly R[], key: (result: R) => string): boolean {
  return groupBy(results, key).length > 1;
}

const DISTINCTIONS = {
  dtype: ({ dtype }) => dtype,
  threads: ({ threads }) => amount(threads, 'threads'),
  device: deviceLabel,
  processor: ({ processor }) => processor,
  instructionSet: ({ instructionSet }) => instructionSet,
  version: ({ version }) => version,
  file: ({ file }) => file,
} satisfies Record<string, (result: ReportedResult | ReportedProfile) => string>;

export type Distinction = keyof typeof DISTINCTIONS;

/** Names a result by those of `distinctions` in which `results` differ, after `first`. */
export function namesOf<R extends ReportedResult | ReportedProfile>(
  results: readonly R[],
  first: (result: R) => string,
  distinctions: readonly Distinction[],
): (result: R) => string {
  const used = distinctions.map(name => DISTINCTIONS[name]).filter(of => differ(results, of));
  return result => [first, ...used].map(of => of(result)).join(', ');
}
