// Experts over one dispatch, forward and backward: what the routed experts and the shared expert of a layer have in common.

import { isGated, nativeActivation, type ResolvedActivation } from '../activation.ts';
import { checkOptionalTensor, checkSameDevice, checkTensor } from '../check.ts';
import type { FloatDType } from '../dtype.ts';
import { empty, type Tensor } from '../tensor.ts';
import { enqueue, type OpArgs } from './call.ts';
import {
  checkExperts,
  EXPERT_NAMES,
  type ExpertDims,
  type ExpertName,
  type Experts,
  expertTensors,
  nativeExperts,
  trainedNames,
} from './experts.ts';
import { checkInto, gradient } from './gradient.ts';
import { checkDispatch, type Dispatch } from './permute.ts';

export interface ExpertBlock {
  /** [T, H] */
  readonly x: Tensor;
  readonly experts: Experts;
  readonly activation: ResolvedActivation;
  /** The routing weight multiplies the experts' input instead of their output. */
  readonly weightOnInput: boolean;
  readonly dispatch: Dispatch;
  /** float32 [T, K] */
  readonly weights: Tensor;
  /** [R, I] or, gated, [R, 2I]; to be written by the forward pass, where asked, and read by the backward pass, where present */
  readonly preActivation: Tensor | undefined;
}

/** Gradients of experts, name for name; where there are low-rank pairs, theirs alone. */
export type ExpertGradients = { [name in ExpertName]?: Tensor };

/** Columns of the pre-activation rows. */
export function preActivationWidth(activation: ResolvedActivation, intermediate: number): number {
  return isGated(activation.activation) ? 2 * intermediate : intermediate;
}

/** y (+)= Σ_k weights[t, k] · expert(x[t]). */
export function blockForward(block: ExpertBlock, y: Tensor, accumulateY: boolean): void {
  const { x, experts, activation, weightOnInput, dispatch, weights, preActivation } = block;
  enqueue(
    'expertsForward',
    { x, ...dispatch, weights, y, preActivation, weightOnInput, accumulateY },
    nativeExperts(experts),
    nativeActivation(activation),
  );
}

/** Everything the backward pass needs is alive and fits together. */
export function checkBlock(name: string, block: ExpertBlock): ExpertDims {
  const { x, experts, activation, dispatch, preActivation } = block;
  const dims = checkExperts(experts, activation.activation, x.dtype as FloatDType, x.shape[1]!);
  const { rows, tokens, topK } = checkDispatch(`${name}.dispatch`, dispatch);
  checkTensor(`${name}.routing.weights`, block.weights, { dtype: 'float32', shape: [tokens, topK] });
  const width = preActivationWidth(activation, dims.intermediate);
  checkOptionalTensor(`${name}.preActivation`, preActivation, { dtype: x.dtype, shape: [rows, width] });
  checkSameDevice({ x, weights: block.weights, preActivation, ...expertTensors(experts) });
  return dims;
}

/** Gradients to add to fit the parameters that have gradients. */
export function checkExpertsInto(experts: Experts, into: ExpertGradients): void {
  const trained = trainedNames(experts);
  for (const name of EXPERT_NAMES) {
    checkInto(`accumulateInto.${name}`, trained.includes(name) ? experts[name] : undefined, into[name]);
  }
}

/** Where every gradient of the experts goes: `into`, where given, or a new tensor. */
export function expertTargets(
  own: (tensor: Tensor) => Tensor,
  experts: Experts,
  into: ExpertGradients,
): ExpertGradients {
  const targets: ExpertGradients = {};
  for (const name of trainedNames(experts)) {
    targets[name] = gradient(own, `accumulateInto.${name}`, experts[name], into[name], experts.down.device);
  }
  return targets;
}

export interface BlockBackward {
  dy: Tensor;
  dx: Tensor;
  accumulateDx: boolean;
  /** Where every gradient of the experts is written, one for each parameter that has one. */
  targets: ExpertGradients;
  /** Names of those that are added to. */
  added: ReadonlySet<string>;
}

/** The gradients of {@link blockForward}: dx and those of the experts in place, that of the weights returned. */
export function blockBackward(
  own: (tensor: Tensor) => Tensor,
  block: ExpertBlock,
  { dy, dx, accumulateDx, targets, added }: BlockBackward,
): Tensor {
  const { x, experts, activation, weightOnInput, dispatch, weights, preActivation } = block;
  const dWeights = own(empty(weights.shape, { device: x.device }));
  const gradientArgs: OpArgs = {};
  for (const [name, target] of Object.entries(targets)) {
    const argument = `D${name[0]!.toUpperCase()}${name.slice(1)}`;
    gradientArgs[`d${argument.slice(1)}`] = target;
    gradientArgs[`accumulate${argument}`] = added.has(name);
  }
  enqueue(
    'expertsBackward',
    { dy, x, ...dispatch, weights, preActivation, dx, dWeights, weightOnInput, accumulateDx },
    gradientArgs,
    nativeExperts(experts),
    nativeActivation(activation),
  );
  return dWeights;
}
