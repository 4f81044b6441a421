// Shapes and their routers: what the layer of a case is, and every shape with every router asked for.

import { isDeepStrictEqual } from 'node:util';
import { checkOneOf } from '../src/check.ts';
import type { NamedShape } from './campaign.ts';
import {
  type LayerDesign,
  logitsPerToken,
  plainDesign,
  ROUTER_NAMES,
  resolveDesign,
  withGivenExperts,
  withRouter,
} from './layer-design.ts';
import { MODEL_LAYERS } from './model-layers.ts';
import { type LayerShape, ownActivation } from './shapes.ts';
import { skewedExperts } from './skew.ts';
import type { WorkloadOptions } from './workload.ts';

/** The shape's own router, then those that any shape can be given. */
export const ROUTER_CHOICES = ['own', ...ROUTER_NAMES] as const;
export type RouterChoice = (typeof ROUTER_CHOICES)[number];

/** What a layer is beside its sizes. */
export function designOf(layer: NamedShape): LayerDesign {
  const own = MODEL_LAYERS.get(layer.shape)?.design ?? plainDesign(layer);
  const design = withRouter(ofActivation(own, layer), layer.router, layer);
  return layer.skew === undefined ? design : withGivenExperts(design);
}

/** What a workload of the layer is made of, beside its sizes. */
export function workloadOptions(layer: NamedShape): WorkloadOptions {
  const indices = givenExperts('skew', layer);
  return { design: designOf(layer), ...(indices && { indices }) };
}

function givenExperts(argument: string, layer: NamedShape): Int32Array | undefined {
  const { skew, tokens, experts, topK } = layer;
  return skew === undefined ? undefined : skewedExperts(argument, skew, { tokens, experts, topK });
}

/** A shape with E' logits and K' slots a token, where they are others than E and K. */
export interface RoutedShape extends LayerShape {
  readonly logits?: number;
  readonly slots?: number;
}

export function routedShape(layer: NamedShape): RoutedShape {
  const design = designOf(layer);
  const slots = resolveDesign('router', layer, design).topK;
  return { ...layer, logits: logitsPerToken(layer, design), slots };
}

/** Whether sizes and activation say all of the layer: softmax over all experts, the K largest, normalised where K > 1. */
export function isPlain(layer: NamedShape): boolean {
  const { router, ...rest } = designOf(layer);
  const { bias, selectionBias, expertScale, hash } = router;
  const isThere = (part: unknown) => part !== undefined && part !== false && part !== 0;
  if ([...Object.values(rest), bias, selectionBias, expertScale, hash].some(isThere)) return false;
  const resolve = (design: LayerDesign) => resolveDesign('router', layer, design);
  return isDeepStrictEqual(resolve({ router }), resolve(plainDesign(layer)));
}

/** The numbers of an activation are of no use to another. */
function ofActivation(design: LayerDesign, { shape, activation }: NamedShape): LayerDesign {
  if (activation === ownActivation(shape)) return design;
  const { activationLimit, activationAlpha, activationUpShift, ...rest } = design;
  return rest;
}

/**
 * @param argument what the sentence of an error begins with
 * @throws MoeError ERR_INVALID_ARGUMENT for a router that is unknown, or that a shape does not admit
 */
export function withRouters(
  argument: string,
  shapes: readonly NamedShape[],
  routers: readonly string[] = ['own'],
): NamedShape[] {
  const choices = routers.map(name => checkOneOf(argument, name, ROUTER_CHOICES));
  const routed = shapes.flatMap(shape =>
    choices.map(router => (router === 'own' ? shape : { ...shape, router })),
  );
  for (const one of routed) resolveDesign(argument, one, designOf(one));
  return routed;
}

/**
 * Every shape with each distribution of rows over experts; `router` leaves it to the router.
 * @param argument what the sentence of an error begins with
 * @throws MoeError as {@link skewedExperts}; ERR_INVALID_ARGUMENT for a router that takes no given experts
 */
export function withSkews(
  argument: string,
  shapes: readonly NamedShape[],
  skews: readonly string[] = ['router'],
): NamedShape[] {
  const skewed = shapes.flatMap(shape => skews.map(skew => (skew === 'router' ? shape : { ...shape, skew })));
  for (const one of skewed) {
    givenExperts(argument, one);
    resolveDesign(argument, one, designOf(one));
  }
  return skewed;
}
