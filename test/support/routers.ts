// Every way a router can be configured, as far as it changes the mathematics.

import type { RouterOptions } from '../../src/index.ts';

/** Options, and whether the router has the vectors that go with some of them. */
export interface RouterVariant extends Omit<RouterOptions, 'topK' | 'identityExperts'> {
  selectionBias?: boolean;
  expertScale?: boolean;
}

const GROUPS = [
  { count: 3, top: 2 },
  { count: 2, top: 1, score: 'max', maskValue: 0 },
  { count: 3, top: 1, score: 'top2sum' },
  { count: 2, top: 1, score: 'top2sum', maskValue: 0 },
] as const;

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

/** Sparsemixer chooses by its own rule. */
const makesSense = ({ score, groups, selectionBias }: RouterVariant) =>
  score !== 'sparsemixer' || !(groups || selectionBias);

/** Every combination of one meaning of each kind that makes sense. */
export const ALL_ROUTERS: readonly RouterVariant[] = Object.values(MEANINGS)
  .reduce<RouterVariant[]>(
    (combined, meanings) => combined.flatMap(router => meanings.map(more => ({ ...router, ...more }))),
    [{}],
  )
  .filter(makesSense);

/** Whether a router can choose K of so many experts. */
export function fits({ groups, score }: RouterVariant, experts: number, topK: number): boolean {
  if (score === 'sparsemixer' && topK !== 2) return false;
  if (!groups) return true;
  const size = experts / groups.count;
  return Number.isInteger(size) && groups.top * size >= topK && (groups.score !== 'top2sum' || size >= 2);
}

export const routerTitle = (router: RouterVariant): string =>
  Object.entries(router)
    .map(([key, value]) => `${key} ${typeof value === 'object' ? Object.values(value).join(' ') : value}`)
    .join(', ') || 'default';
