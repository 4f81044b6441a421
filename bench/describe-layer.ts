// A layer and its parts in words; by itself, for the page of results is made where there may be no addon.

import type { BenchCase, NamedShape } from './campaign.ts';

/** All but the tokens. */
export function describeSizes(layer: Omit<NamedShape, 'shape' | 'tokens'>): string {
  const { hidden, intermediate, experts, topK, activation, router, skew } = layer;
  const words = [`H ${hidden}`, `I ${intermediate}`, `E ${experts}`, `K ${topK}`, activation];
  return [...words, router, skew].filter(word => word !== undefined).join(', ');
}

/** What of the layer is measured, and how it is launched. */
export function partName({ pass, stage, graph }: Pick<BenchCase, 'pass' | 'stage' | 'graph'>): string {
  return `${stage ?? pass}${graph ? ' graph' : ''}`;
}

/** What tables call a stage, or an op that has none. */
export function stageName({ op, stage }: { readonly op: string; readonly stage?: string }): string {
  return stage === undefined ? op : `${op} ${stage}`;
}
