// Every way a router can be configured, as far as it changes the mathematics.

import type { RouterOptions } from '../../src/index.ts';

/** Options, whether the router has the vectors that go with some of them, and what its calls say. */
export interface RouterVariant extends Omit<RouterOptions, 'topK' | 'identityExperts'> {
  selectionBias?: boolean;
  expertScale?: boolean;
  /** Weight and bias are frozen beside a low-rank pair. */
  loraRank?: number;
  /** Expert ids are given. */
  hash?: boolean;
  /** Some tokens are padding. */
  masked?: boolean;
  /** The tokens are sequences of one length. */
  sequences?: boolean;
  /** Noise is on. */
  step?: number;
}

const GROUPS = [
  { count: 3, top: 2 },
  { count: 2, top: 1, score: 'max', maskValue: 0 },
  { count: 3, top: 1, score: 'top2sum' },
  { count: 2, top: 1, score: 'top2sum', maskValue: 0 },
] as const;

const ANNEAL = { steps: 8, to: 0.25 } as const;
const NOISY: RouterVariant = { noise: { kind: 'noisyTopK', seed: 5 }, step: 3 };
const GUMBEL: RouterVariant = { noise: { kind: 'gumbel', scale: 0.7, seed: 2 ** 40 + 9 }, step: 2 ** 33 };
const JITTER: RouterVariant = { noise: { kind: 'jitter', eps: 0.3 }, step: 1 };
const BY_SEQUENCE = { level: 'sequence', sequences: true } as const;

/** Noise of the logits, annealed in every way. */
const NOISES: readonly RouterVariant[] = [
  NOISY,
  { noise: { kind: 'noisyTopK', anneal: { ...ANNEAL, shape: 'exponential' } }, step: 6, normalize: true },
  GUMBEL,
  { noise: { kind: 'gumbel', anneal: { ...ANNEAL, shape: 'cosine' } }, step: 3, score: 'sigmoid' },
  { noise: { kind: 'gumbel', anneal: ANNEAL }, step: 11, softmaxOver: 'selected' },
  { noise: { kind: 'gumbel', anneal: { steps: 4 } }, step: 4 },
];

/** What takes a choice away, or part of it. */
const CAPACITIES = [
  { capacity: { factor: 0.75 } },
  { capacity: { factor: 1.25, dropPolicy: 'probability' } },
  { capacity: { tokensPerExpert: 2, per: 'sequence' }, sequences: true },
  { capacity: { factor: 0.5, dropped: 'residual' } },
  {
    capacity: { factor: 0.6, per: 'sequence', dropPolicy: 'probability', dropped: 'residual' },
    sequences: true,
  },
] as const satisfies RouterVariant[];

/** Routers whose tokens do not each choose K experts of their own. */
const OTHER_CHOICES: readonly RouterVariant[] = [
  { hash: true },
  { hash: true, score: 'sigmoid', normalize: true, expertScale: true },
  { hash: true, softmaxOver: 'selected', masked: true, capacity: { tokensPerExpert: 3 } },
  BY_SEQUENCE,
  { ...BY_SEQUENCE, masked: true, normalize: true, expertScale: true },
  { ...BY_SEQUENCE, score: 'sigmoid', selectionBias: true, groups: GROUPS[2] },
  { ...BY_SEQUENCE, ...GUMBEL, masked: true },
  { ...BY_SEQUENCE, ...NOISY, masked: true, capacity: { tokensPerExpert: 4, per: 'sequence' } },
  { expertChoice: { tokensPerExpert: 3 } },
  { expertChoice: { factor: 1.5 }, score: 'sigmoid', expertScale: true, masked: true },
  { expertChoice: { factor: 2, per: 'sequence' }, sequences: true, score: 'sqrtsoftplus', scale: 1.5 },
  { expertChoice: { tokensPerExpert: 2, per: 'sequence' }, sequences: true, score: 'identity', masked: true },
  { expertChoice: { factor: 1 }, ...NOISY },
  { expertChoice: { factor: 0.5, dropped: 'residual' }, score: 'identity' },
];

/** Each option by itself, and as published models combine them. Groups need a multiple of 6 experts, sparsemixer K = 2. */
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
  { score: 'sqrtsoftplus' },
  { score: 'sqrtsoftplus', normalize: true, scale: 1.5, selectionBias: true },
  { score: 'sparsemixer' },
  { score: 'sparsemixer', jitterEps: 0.2, normalize: true },
  { score: 'sparsemixer', jitterEps: 0.5, expertScale: true, capacity: { tokensPerExpert: 4 } },
  { selectionBias: true },
  { expertScale: true, normalize: true },
  ...GROUPS.map(groups => ({ groups })),
  { softmaxOver: 'selected', groups: GROUPS[0], selectionBias: true },
  { score: 'sigmoid', groups: GROUPS[2], selectionBias: true, normalize: true, scale: 2.5 },
  { score: 'sqrtsoftplus', groups: GROUPS[3], selectionBias: true, expertScale: true },
  { capacity: { tokensPerExpert: 3 } },
  { normalize: true, expertScale: true, capacity: { tokensPerExpert: 5, dropPolicy: 'position' } },
  ...CAPACITIES,
  { score: 'identity' },
  { score: 'identity', scale: -0.5, expertScale: true, masked: true },
  { masked: true },
  { masked: true, normalize: true, capacity: { tokensPerExpert: 2, dropPolicy: 'probability' } },
  { score: 'sparsemixer', jitterEps: 0.3, masked: true },
  { topP: 0.4 },
  { topP: 0.7, normalize: true, scale: 1.5 },
  { topP: 0.6, groups: GROUPS[0], selectionBias: true, expertScale: true, normalize: true },
  { topP: 0.5, masked: true, capacity: { factor: 0.75, dropPolicy: 'probability', dropped: 'residual' } },
  ...OTHER_CHOICES,
  ...NOISES,
];

/** Routers that change what the logits are made of. */
export const PROJECTIONS: readonly RouterVariant[] = [
  JITTER,
  { ...JITTER, normalize: true, expertScale: true },
  { noise: { kind: 'jitter', eps: 0.5, anneal: { steps: 10, shape: 'cosine' } }, step: 4, ...BY_SEQUENCE },
  { loraRank: 3 },
  { ...JITTER, loraRank: 1, score: 'sigmoid', normalize: true },
  { ...NOISY, loraRank: 17, expertChoice: { factor: 1 } },
];

const MEANINGS = {
  score: [
    { softmaxOver: 'all' },
    { softmaxOver: 'selected' },
    { score: 'sigmoid' },
    { score: 'sqrtsoftplus' },
    { score: 'sparsemixer', jitterEps: 0.3 },
  ],
  divisor: [
    {},
    { normalize: true },
    { normalize: true, normalizeEps: 0.25 },
    { normalize: true, normalizeMin: 0.7 },
  ],
  factor: [{}, { scale: -1.5 }, { expertScale: true }, { scale: 2.5, expertScale: true }],
  choice: [{}, ...GROUPS.map(groups => ({ groups }))].flatMap(choice => [
    choice,
    { ...choice, selectionBias: true },
  ]),
  capacity: [{}, { capacity: { tokensPerExpert: 3 } }],
} as const;

/** Beside {@link MEANINGS}, of which only samples are tried together. */
const FURTHER = {
  scored: [
    {},
    { masked: true },
    NOISY,
    GUMBEL,
    { ...BY_SEQUENCE },
    { ...BY_SEQUENCE, ...NOISY, masked: true },
  ],
  taken: [{}, { topP: 0.55 }, { hash: true }, { expertChoice: { factor: 1.5 } }],
  limits: [{}, ...CAPACITIES],
} as const;

/** Sparsemixer chooses by its own rule, given experts leave nothing to choose, and experts that choose do not compare theirs. */
export function makesSense(router: RouterVariant): boolean {
  const { score = 'softmax', softmaxOver = 'all', groups, selectionBias, topP, hash, expertChoice } = router;
  const choosesOtherwise = score === 'sparsemixer' || hash || expertChoice;
  if (choosesOtherwise && (groups || selectionBias || topP)) return false;
  if (hash && (score === 'sparsemixer' || expertChoice)) return false;
  if (topP !== undefined && (score !== 'softmax' || softmaxOver !== 'all')) return false;
  const { capacity, normalize, level } = router;
  const comparesOwn = capacity || normalize || score === 'sparsemixer' || softmaxOver === 'selected' || level;
  return !(expertChoice && comparesOwn);
}

const combine = (kinds: readonly (readonly RouterVariant[])[]): RouterVariant[] =>
  kinds
    .reduce<RouterVariant[]>(
      (combined, meanings) => combined.flatMap(router => meanings.map(more => ({ ...router, ...more }))),
      [{}],
    )
    .filter(makesSense);

/** Every combination of one meaning of each kind that makes sense. */
export const ALL_ROUTERS: readonly RouterVariant[] = combine(Object.values(MEANINGS));

/** Combinations of those with every further one: all pairs of the further ones, each with the n-th of the others in turn. */
export const FURTHER_ROUTERS: readonly RouterVariant[] = combine(Object.values(FURTHER)).flatMap(further => {
  const partners = ALL_ROUTERS.filter(router => !router.capacity && makesSense({ ...router, ...further }));
  const stride = Math.max(1, Math.floor(partners.length / 6));
  return partners.filter((_, i) => i % stride === 0).map(router => ({ ...router, ...further }));
});

/** Routers that losses are tried on: every score, every way to choose, and what leaves slots untaken or over capacity. */
export const WATCHED_ROUTERS: readonly RouterVariant[] = [
  {},
  { softmaxOver: 'selected', expertScale: true },
  { score: 'sigmoid', normalize: true, masked: true },
  { score: 'sqrtsoftplus', scale: 2.5, selectionBias: true },
  { score: 'identity', normalize: true, normalizeMin: 0.5 },
  { score: 'sparsemixer', jitterEps: 0.5 },
  { topP: 0.6, normalize: true, expertScale: true, masked: true },
  { capacity: { factor: 0.5, dropPolicy: 'probability', dropped: 'residual' } },
  { hash: true, score: 'sigmoid' },
  { ...BY_SEQUENCE, masked: true },
  { expertChoice: { factor: 1.5 }, score: 'sigmoid', expertScale: true },
  NOISY,
  { ...NOISY, masked: true, normalize: true, capacity: { factor: 0.75 } },
  { ...NOISY, ...BY_SEQUENCE, score: 'sigmoid' },
  { ...NOISY, expertChoice: { factor: 1 } },
];

/** Whether a router can choose K of E experts, and of identity experts beside them. */
export function fits(
  { groups, score, expertChoice }: RouterVariant,
  { experts, topK, identityExperts = 0 }: { experts: number; topK: number; identityExperts?: number },
): boolean {
  if (expertChoice) return identityExperts === 0;
  if (score === 'sparsemixer' && topK !== 2) return false;
  if (!groups) return true;
  const size = (experts + identityExperts) / groups.count;
  return Number.isInteger(size) && groups.top * size >= topK && (groups.score !== 'top2sum' || size >= 2);
}

export const routerTitle = (router: RouterVariant): string =>
  Object.entries(router)
    .map(([key, value]) => `${key} ${typeof value === 'object' ? optionTitle(value) : value}`)
    .join(', ') || 'default';

const optionTitle = (option: object): string =>
  Object.values(option)
    .map(value => (typeof value === 'object' ? `(${optionTitle(value)})` : value))
    .join(' ');
