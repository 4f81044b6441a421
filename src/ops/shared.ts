// The shared expert: a block of one expert that every token visits, weighed by 1 or by a sigmoid gate.

import { isGated, type ResolvedActivation } from '../activation.ts';
import { checkKeys, checkTensor } from '../check.ts';
import type { FloatDType } from '../dtype.ts';
import { badArgument } from '../errors.ts';
import { empty, ones, type Tensor, zeros } from '../tensor.ts';
import {
  type BlockBackward,
  blockBackward,
  blockForward,
  type ExpertBlock,
  preActivationWidth,
} from './expert-block.ts';
import type { Experts } from './experts.ts';
import { checkInto } from './gradient.ts';
import { type Dispatch, dispatch } from './permute.ts';
import { type Routing, route, routeBackward, routingTensors } from './route.ts';

/** The parameters of a shared expert, one dtype with x; several shared experts are one, their widths added (DeepSeek-MoE). */
export interface SharedExpert {
  /** [Is, H], for a gated activation */
  gate?: Tensor;
  /** [Is, H] */
  up: Tensor;
  /** [H, Is] */
  down: Tensor;
  /** [1, H], of x's dtype or float32: the output is multiplied by σ(x · routerᵀ) (Qwen2-MoE) */
  router?: Tensor;
}

export const SHARED_NAMES = ['gate', 'up', 'down', 'router'] as const;
export type SharedGradients = { [name in (typeof SHARED_NAMES)[number]]?: Tensor };

/** What the backward pass of a shared expert needs; all of it made by the forward pass. */
export interface SharedSaved {
  readonly dispatch: Dispatch;
  readonly routing: Routing | undefined;
  readonly weights: Tensor;
  readonly preActivation: Tensor | undefined;
}

export function checkShared(
  shared: SharedExpert,
  activation: ResolvedActivation,
  dtype: FloatDType,
  hidden: number,
): void {
  checkKeys('shared', shared, SHARED_NAMES);
  const { shape } = checkTensor('shared.down', shared.down, { dtype, shape: [hidden, null] });
  const up = { dtype, shape: [shape[1]!, hidden] };
  checkTensor('shared.up', shared.up, up);
  const gated = isGated(activation.activation);
  if (gated) checkTensor('shared.gate', shared.gate, up);
  else if (shared.gate) {
    throw badArgument(
      'ERR_INVALID_ARGUMENT',
      'shared.gate',
      `nothing, for ${activation.activation}`,
      'a tensor',
    );
  }
  const routerDTypes = dtype === 'float32' ? dtype : ([dtype, 'float32'] as const);
  if (shared.router) checkTensor('shared.router', shared.router, { dtype: routerDTypes, shape: [1, hidden] });
}

/** Calls `body` with matrices as experts of one: other shapes of the same memory, for the length of the call. */
function asExperts<T>(shared: SharedGradients, body: (experts: Partial<Experts>) => T): T {
  const views: Partial<Record<'gate' | 'up' | 'down', Tensor>> = {};
  try {
    for (const name of ['gate', 'up', 'down'] as const) {
      const matrix = shared[name];
      if (matrix) views[name] = matrix.reshape([1, ...matrix.shape]);
    }
    return body(views);
  } finally {
    for (const view of Object.values(views)) view.dispose();
  }
}

/** y += the shared expert's output; returns what the backward pass needs, its pre-activation where asked. */
export function sharedForward(
  own: (tensor: Tensor) => Tensor,
  shared: SharedExpert,
  activation: ResolvedActivation,
  { x, y, savePreActivation }: { x: Tensor; y: Tensor; savePreActivation: boolean },
): SharedSaved {
  const tokens = x.shape[0]!;
  const routing = shared.router && route({ x, weight: shared.router, topK: 1, score: 'sigmoid' });
  if (routing) for (const part of routingTensors(routing)) own(part);
  const weights = routing?.weights ?? own(ones([tokens, 1]));
  const first = routing?.indices ?? own(zeros([tokens, 1], { dtype: 'int32' }));
  const permutation = dispatch({ indices: first, experts: 1 });
  for (const part of Object.values(permutation)) own(part);
  if (!routing) first.dispose();
  const width = preActivationWidth(activation, shared.up.shape[0]!);
  const preActivation = savePreActivation ? own(empty([tokens, width], { dtype: x.dtype })) : undefined;
  const saved: SharedSaved = { dispatch: permutation, routing, weights, preActivation };
  asExperts(shared, experts => blockForward(blockOf(saved, x, experts as Experts, activation), y, true));
  return saved;
}

function blockOf(
  saved: SharedSaved,
  x: Tensor,
  experts: Experts,
  activation: ResolvedActivation,
): ExpertBlock {
  const { dispatch, weights, preActivation } = saved;
  return { x, experts, activation, weightOnInput: false, dispatch, weights, preActivation };
}

export function checkSharedInto(shared: SharedExpert | undefined, into: SharedGradients): void {
  for (const name of SHARED_NAMES) {
    checkInto(`accumulateInto.shared${name[0]!.toUpperCase()}${name.slice(1)}`, shared?.[name], into[name]);
  }
}

/** dx += the shared expert's share; returns the gradients of its parameters. */
export function sharedBackward(
  own: (tensor: Tensor) => Tensor,
  shared: SharedExpert,
  saved: SharedSaved,
  activation: ResolvedActivation,
  { x, dy, dx, into }: Pick<BlockBackward, 'dy' | 'dx'> & { x: Tensor; into: SharedGradients },
): SharedGradients {
  const gradients: SharedGradients = {};
  const matrices = ['gate', 'up', 'down'] as const;
  // New gradients start at zero, so that all are added to.
  for (const name of matrices) {
    const parameter = shared[name];
    if (parameter) gradients[name] = into[name] ?? own(zeros(parameter.shape, { dtype: parameter.dtype }));
  }
  const dWeights = asExperts(shared, experts =>
    asExperts(gradients, targets => {
      const block = blockOf(saved, x, experts as Experts, activation);
      return blockBackward(own, block, { dy, dx, accumulateDx: true, into: targets }).dWeights;
    }),
  );
  if (shared.router && saved.routing) {
    const { dWeight, dLogits } = routeBackward({
      ...{ routing: saved.routing, dWeights, x, weight: shared.router },
      accumulateInto: { dx, weight: into.router },
    });
    dLogits.dispose();
    gradients.router = dWeight;
  }
  dWeights.dispose();
  return gradients;
}

/** Frees what the forward pass made. */
export function disposeShared({ dispatch: permutation, routing, weights, preActivation }: SharedSaved): void {
  for (const part of Object.values(permutation)) part.dispose();
  if (routing) for (const part of routingTensors(routing)) part.dispose();
  weights.dispose();
  preActivation?.dispose();
}
