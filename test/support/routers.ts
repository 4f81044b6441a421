// Every way a router can be configured, as far as it changes the mathematics.

import type { RouterOptions } from '../../src/index.ts';

export type RouterVariant = Omit<RouterOptions, 'topK'>;

export const ROUTERS: readonly RouterVariant[] = [
  {},
  { scale: 2.5 },
  { normalize: true },
  { normalize: true, normalizeEps: 0.25, scale: -0.5 },
  { normalize: true, normalizeMin: 0.6 },
  { normalize: true, normalizeEps: 0.01, normalizeMin: 0.4 },
  { softmaxOver: 'selected' },
  { softmaxOver: 'selected', scale: 1.75 },
  { softmaxOver: 'selected', normalize: true, normalizeEps: 0.5 },
  { score: 'sigmoid' },
  { score: 'sigmoid', normalize: true },
  { score: 'sigmoid', normalize: true, normalizeEps: 1e-20, scale: 2.5 },
  { score: 'sigmoid', normalize: true, normalizeMin: 1.3 },
];

export const routerTitle = (router: RouterVariant): string =>
  Object.entries(router)
    .map(([key, value]) => `${key} ${value}`)
    .join(', ') || 'default';
