// What a layer is beside its sizes: numbers of its activation, biases, its router; and the routers that any layer can be given.

import type { LayerRouter, MoELayerConfig } from '../src/layer-config.ts';
import { type ResolvedRouter, type RouterOptions, resolveRouter } from '../src/router.ts';
import type { LayerShape } from './shapes.ts';

/** As a layer's configuration has it. */
export interface LayerDesign
  extends Pick<
    MoELayerConfig,
    'activationLimit' | 'activationAlpha' | 'activationUpShift' | 'bias' | 'applyWeightTo' | 'identityExperts'
  > {
  readonly router: LayerRouter;
}

/** What a layer is that is given by its sizes alone. */
export function plainDesign(shape: Pick<LayerShape, 'experts' | 'topK'>): LayerDesign {
  return { router: ROUTERS['softmax-normalized'](shape) };
}

/** The options of a design's router for a shape. */
export function routerOptions(
  { topK }: Pick<LayerShape, 'topK'>,
  { router, identityExperts }: LayerDesign,
): RouterOptions {
  const { bias, selectionBias, expertScale, hash, ...options } = router;
  return {
    ...options,
    ...(options.expertChoice === undefined && { topK }),
    ...(identityExperts && { identityExperts }),
  };
}

/** @throws MoeError ERR_INVALID_ARGUMENT where the sizes do not admit the router */
export function resolveDesign(
  argument: string,
  shape: Pick<LayerShape, 'topK' | 'experts'>,
  design: LayerDesign,
): ResolvedRouter {
  const { hash } = design.router;
  return resolveRouter(argument, routerOptions(shape, design), logitsPerToken(shape, design), hash);
}

/** E' */
export function logitsPerToken(
  { experts }: Pick<LayerShape, 'experts'>,
  { identityExperts = 0 }: LayerDesign,
): number {
  return experts + identityExperts;
}

type RouterFor = (shape: Pick<LayerShape, 'experts' | 'topK'>) => LayerRouter;

/** Kinds of routers that models have, for a layer of any sizes. One weight is not normalised: it would always be 1. */
const ROUTERS = {
  softmax: () => ({}),
  'softmax-normalized': ({ topK }) => ({ normalize: topK > 1 }),
  'softmax-selected': () => ({ softmaxOver: 'selected' }),
  sigmoid: () => ({ score: 'sigmoid' }),
  'sigmoid-bias': biasedSigmoid,
  groups: layer => ({ ...biasedSigmoid(layer), groups: halfOfGroups(layer.experts) }),
  sparsemixer: () => ({ score: 'sparsemixer' }),
  capacity: ({ topK }) => ({ normalize: topK > 1, capacity: { factor: 1.25 } }),
  'expert-choice': ({ topK }) => ({ expertChoice: { factor: topK } }),
} as const satisfies Record<string, RouterFor>;

function biasedSigmoid({ topK }: Pick<LayerShape, 'topK'>): LayerRouter {
  return { score: 'sigmoid', selectionBias: true, ...(topK > 1 && { normalize: true, normalizeEps: 1e-20 }) };
}

/** The better half of eight groups, or of as many as leave two experts in each. */
function halfOfGroups(experts: number): NonNullable<LayerRouter['groups']> {
  const count = [8, 4].find(groups => experts % groups === 0 && experts >= 2 * groups) ?? 2;
  return { count, top: count / 2, score: experts >= 2 * count ? 'top2sum' : 'max' };
}

export type RouterName = keyof typeof ROUTERS;
export const ROUTER_NAMES = Object.keys(ROUTERS) as RouterName[];

/** The design with another router; what is no part of the router stays. */
export function withRouter(
  design: LayerDesign,
  router: RouterName | undefined,
  shape: Pick<LayerShape, 'experts' | 'topK'>,
): LayerDesign {
  if (router === undefined) return design;
  const make: RouterFor = ROUTERS[router];
  return { ...design, router: make(shape) };
}

/** The design with experts that are given: what only chooses is left out. */
export function withGivenExperts(design: LayerDesign): LayerDesign {
  const { groups, selectionBias, ...router } = design.router;
  return { ...design, router: { ...router, hash: true } };
}

/** In words, without what only scales weights. */
export function describeRouter({ router, identityExperts }: LayerDesign): string {
  const { score = 'softmax', softmaxOver, selectionBias, groups, capacity, expertChoice } = router;
  return [
    ...[score, softmaxOver === 'selected' && 'selected', selectionBias && 'bias', groups && 'groups'],
    ...[capacity && 'capacity', expertChoice && 'expert-choice', identityExperts && 'identities'],
  ]
    .filter(word => word)
    .join(' ');
}
