// Shared experts: a block of experts that every token visits, each weighed by 1, a sigmoid gate, a learnt weight, or both.

import { isGated, type ResolvedActivation } from '../activation.ts';
import { checkKeys, checkTensor } from '../check.ts';
import type { FloatDType } from '../dtype.ts';
import { badArgument } from '../errors.ts';
import { resolveRouter } from '../router.ts';
import { empty, ones, type Tensor } from '../tensor.ts';
import {
  type BlockBackward,
  blockBackward,
  blockForward,
  type ExpertBlock,
  preActivationWidth,
} from './expert-block.ts';
import type { Experts } from './experts.ts';
import { checkInto, givenNames, gradient } from './gradient.ts';
import { type Dispatch, dispatch } from './permute.ts';
import { type Routing, routeBackward, routeBy, routingTensors } from './route.ts';

/**
 * The parameters of one shared expert, or of n of them in tensors of one dimension more, matrices of one dtype with x. Several
 * that are not weighed are the same as one of their widths added (DeepSeek-MoE, arXiv 2401.06066).
 */
export interface SharedExpert {
  /** [Is, H] or [n, Is, H], for a gated activation */
  gate?: Tensor;
  /** [Is, H] or [n, Is, H] */
  up: Tensor;
  /** [H, Is] or [n, H, Is] */
  down: Tensor;
  /** [n, H], of x's dtype or float32: expert i's output is multiplied by σ(x · routerᵀ)_i (Qwen2-MoE, arXiv 2407.10671) */
  router?: Tensor;
  /** [n], of x's dtype or float32: expert i's output is multiplied by weights_i */
  weights?: Tensor;
}

const MATRICES = ['gate', 'up', 'down'] as const;
export const SHARED_NAMES = [...MATRICES, 'router', 'weights'] as const;
export type SharedGradients = { [name in (typeof SHARED_NAMES)[number]]?: Tensor };

/** What the backward pass of shared experts needs; all of it made by the forward pass. */
export interface SharedSaved {
  readonly dispatch: Dispatch;
  readonly routing: Routing;
  readonly preActivation: Tensor | undefined;
}

export function checkShared(
  shared: SharedExpert,
  activation: ResolvedActivation,
  dtype: FloatDType,
  hidden: number,
): void {
  checkKeys('shared', shared, SHARED_NAMES);
  const several = checkTensor('shared.down', shared.down, { dtype }).shape.length === 3;
  const downShape = several ? [null, hidden, null] : [hidden, null];
  const { shape } = checkTensor('shared.down', shared.down, { dtype, shape: downShape });
  const count = several ? shape[0]! : 1;
  if (count < 1) throw badArgument('ERR_SHAPE', 'shared.down', 'at least one expert', '0');
  const up = { dtype, shape: [...(several ? [count] : []), shape.at(-1)!, hidden] };
  checkTensor('shared.up', shared.up, up);
  const gated = isGated(activation.activation);
  if (gated) checkTensor('shared.gate', shared.gate, up);
  else if (shared.gate) {
    const expected = `nothing, for ${activation.activation}`;
    throw badArgument('ERR_INVALID_ARGUMENT', 'shared.gate', expected, 'a tensor');
  }
  const wide = dtype === 'float32' ? dtype : ([dtype, 'float32'] as const);
  if (shared.router) checkTensor('shared.router', shared.router, { dtype: wide, shape: [count, hidden] });
  if (shared.weights) checkTensor('shared.weights', shared.weights, { dtype: wide, shape: [count] });
}

/** n */
function countOf({ down }: SharedExpert): number {
  return down.shape.length === 3 ? down.shape[0]! : 1;
}

/** Calls `body` with matrices as those of n experts: other shapes of the same memory, for the length of the call. */
function asExperts<T>(count: number, shared: SharedGradients, body: (experts: Partial<Experts>) => T): T {
  const views: Partial<Record<(typeof MATRICES)[number], Tensor>> = {};
  try {
    for (const name of MATRICES) {
      const matrix = shared[name];
      if (matrix) views[name] = matrix.reshape([count, ...matrix.shape.slice(-2)]);
    }
    return body(views);
  } finally {
    for (const view of Object.values(views)) view.dispose();
  }
}

/** y += the shared experts' outputs; returns what the backward pass needs, its pre-activation where asked. */
export function sharedForward(
  own: (tensor: Tensor) => Tensor,
  shared: SharedExpert,
  activation: ResolvedActivation,
  { x, y, savePreActivation }: { x: Tensor; y: Tensor; savePreActivation: boolean },
): SharedSaved {
  const count = countOf(shared);
  const routing = routeToAll(own, x, shared);
  const permutation = dispatch({ indices: routing.indices, experts: count });
  for (const part of Object.values(permutation)) own(part);
  const preShape = [x.shape[0]! * count, preActivationWidth(activation, shared.down.shape.at(-1)!)];
  const preActivation = savePreActivation
    ? own(empty(preShape, { dtype: x.dtype, device: x.device }))
    : undefined;
  const saved: SharedSaved = { dispatch: permutation, routing, preActivation };
  asExperts(count, shared, experts =>
    blockForward(blockOf(saved, x, experts as Experts, activation), y, true),
  );
  return saved;
}

/** Every token to all n experts in the order of their ids, with the weight of each. */
function routeToAll(own: (tensor: Tensor) => Tensor, x: Tensor, shared: SharedExpert): Routing {
  const count = countOf(shared);
  const { router: weight, weights: expertScale } = shared;
  const source = weight ? { x, weight } : { logits: own(ones([x.shape[0]!, count], { device: x.device })) };
  const options = { score: weight ? 'sigmoid' : 'identity', topK: count } as const;
  const routing = routeBy({ ...source, ...options, expertScale }, experts => ({
    ...resolveRouter('shared', options, experts),
    choice: 'all',
  }));
  for (const part of routingTensors(routing)) own(part);
  return routing;
}

function blockOf(
  { dispatch, routing, preActivation }: SharedSaved,
  x: Tensor,
  experts: Experts,
  activation: ResolvedActivation,
): ExpertBlock {
  const { weights } = routing;
  return { x, experts, activation, weightOnInput: false, dispatch, weights, preActivation };
}

export function checkSharedInto(shared: SharedExpert | undefined, into: SharedGradients): void {
  for (const name of SHARED_NAMES) checkInto(intoName(name), shared?.[name], into[name]);
}

const intoName = (name: string) => `accumulateInto.shared${name[0]!.toUpperCase()}${name.slice(1)}`;

/** dx += the shared experts' share; returns the gradients of their parameters. */
export function sharedBackward(
  own: (tensor: Tensor) => Tensor,
  shared: SharedExpert,
  saved: SharedSaved,
  activation: ResolvedActivation,
  { x, dy, dx, into }: Pick<BlockBackward, 'dy' | 'dx'> & { x: Tensor; into: SharedGradients },
): SharedGradients {
  const count = countOf(shared);
  const gradients: SharedGradients = {};
  for (const name of MATRICES) {
    const target = gradient(own, intoName(name), shared[name], into[name], x.device);
    if (target) gradients[name] = target;
  }
  const added = givenNames(into);
  const dWeights = asExperts(count, shared, experts =>
    asExperts(count, gradients, targets => {
      const block = blockOf(saved, x, experts as Experts, activation);
      return blockBackward(own, block, { dy, dx, accumulateDx: true, targets, added });
    }),
  );
  Object.assign(gradients, gateGradients(own, shared, saved.routing, { x, dx, dWeights, into }));
  dWeights.dispose();
  return gradients;
}

/** dx += the gates' share; the gradients of the gates and of the learnt weights. */
function gateGradients(
  own: (tensor: Tensor) => Tensor,
  { router, weights }: SharedExpert,
  routing: Routing,
  { x, dx, dWeights, into }: { x: Tensor; dx: Tensor; dWeights: Tensor; into: SharedGradients },
): SharedGradients {
  if (!router && !weights) return {};
  const accumulateInto = { ...(router && { dx, weight: into.router }), expertScale: into.weights };
  const { dLogits, dWeight, dExpertScale } = routeBackward({
    ...{ routing, dWeights, expertScale: weights, accumulateInto },
    ...(router && { x, weight: router }),
  });
  dLogits.dispose();
  return {
    ...(router && { router: own(dWeight!) }),
    ...(weights && { weights: own(dExpertScale!) }),
  };
}

/** Frees what the forward pass made. */
export function disposeShared({ dispatch: permutation, routing, preActivation }: SharedSaved): void {
  for (const part of [...Object.values(permutation), ...routingTensors(routing)]) part.dispose();
  preActivation?.dispose();
}
