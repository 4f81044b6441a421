// The routing families that the example trains, each as a recipe: the layer's router, and what keeps its experts in use.
// Formulas and sources of every option: docs/routers.md.

import type { MoELayerConfig, RouterLossArgs } from '../../src/index.ts';

/** A way to route: what the layer is told, and what training adds to it. */
export interface Recipe {
  readonly meaning: string;
  /** K and the router, of a layer of `experts` experts of width `intermediate`; or other sizes. */
  readonly layer: (sizes: Sizes) => Pick<MoELayerConfig, 'topK' | 'router'> & Partial<Sizes>;
  /** Coefficients. */
  readonly losses?: Pick<RouterLossArgs, 'loadBalance' | 'z' | 'importance' | 'load'>;
  /** Load-balance each sequence by itself. */
  readonly balancePer?: 'sequence';
  /** Rate of the selection bias's update after each step. */
  readonly biasRate?: number;
}

type Sizes = Pick<MoELayerConfig, 'experts' | 'intermediate'>;

export const RECIPES = {
  'top-k': {
    meaning: 'softmax, the best expert, and nothing that balances',
    layer: () => ({ topK: 1 }),
  },
  'aux-loss': {
    meaning: 'the same with the load-balancing loss of Switch',
    layer: () => ({ topK: 1 }),
    losses: { loadBalance: 0.01 },
  },
  'selection-bias': {
    meaning: 'the same with a selection bias, updated after each step, instead of a loss',
    layer: () => ({ topK: 1, router: { selectionBias: true } }),
    biasRate: 0.01,
  },
  'sigmoid-groups': {
    meaning: 'DeepSeek-V3: sigmoid, best groups, selection bias, and a little loss per sequence',
    layer: () => ({
      topK: 2,
      router: {
        ...{ score: 'sigmoid', selectionBias: true, normalize: true },
        groups: { count: 4, top: 2, score: 'top2sum' },
      },
    }),
    losses: { loadBalance: 0.0001 },
    balancePer: 'sequence',
    biasRate: 0.01,
  },
  'noisy-top-k': {
    meaning: 'Shazeer: learned noise, softmax over the selected, importance and load losses',
    layer: () => ({ topK: 2, router: { softmaxOver: 'selected', noise: { kind: 'noisyTopK' } } }),
    losses: { importance: 0.1, load: 0.1 },
  },
  gumbel: {
    meaning: 'Gumbel noise that fades, and no loss',
    layer: () => ({
      topK: 1,
      router: { noise: { kind: 'gumbel', anneal: { steps: 500, shape: 'cosine' } } },
    }),
  },
  jitter: {
    meaning: 'Switch: jitter on the input, capacity factor 1.25, load-balancing loss',
    layer: () => ({
      topK: 1,
      router: { noise: { kind: 'jitter', eps: 0.01 }, capacity: { factor: 1.25 } },
    }),
    losses: { loadBalance: 0.01 },
  },
  capacity: {
    meaning: 'factor 1, the least probable dropped, load-balancing loss',
    layer: () => ({
      topK: 2,
      router: { normalize: true, capacity: { factor: 1, dropPolicy: 'probability' } },
    }),
    losses: { loadBalance: 0.01 },
  },
  'top-p': {
    meaning: 'as many experts as reach half of the probability, at most four',
    layer: () => ({ topK: 4, router: { topP: 0.5 } }),
    losses: { loadBalance: 0.01 },
  },
  'expert-choice': {
    meaning: 'each expert takes its best tokens, one expert per token on average',
    layer: () => ({ router: { expertChoice: { factor: 1 } } }),
  },
  'mixture-of-depths': {
    meaning: 'one expert as wide as all takes the best eighth of each sequence, the rest pass by',
    layer: ({ experts, intermediate }) => ({
      ...{ experts: 1, intermediate: experts * intermediate },
      router: { score: 'identity', expertChoice: { factor: 0.125, per: 'sequence' } },
    }),
  },
  sequence: {
    meaning: 'one choice for each sequence, load-balancing loss',
    layer: () => ({ topK: 1, router: { level: 'sequence' } }),
    losses: { loadBalance: 0.1 },
  },
  soft: {
    meaning: 'Jacobs and others 1991: every expert, weighed by the softmax',
    layer: ({ experts }) => ({ topK: experts }),
  },
  hash: {
    meaning: 'the last byte decides; the router only weighs',
    layer: () => ({ topK: 1, router: { hash: true } }),
  },
} as const satisfies Record<string, Recipe>;

export type RouterName = keyof typeof RECIPES;
export const ROUTER_NAMES = Object.keys(RECIPES) as RouterName[];
