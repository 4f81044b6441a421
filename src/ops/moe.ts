// The fused layer: route, dispatch, experts and combine in one call, and their backward in another.

import { type Activation, checkActivation, isGated } from '../activation.ts';
import { checkKeys, checkOneOf, checkOptionalTensor, checkSameDevice, checkTensor } from '../check.ts';
import { describe, FLOAT_DTYPES, type FloatDType } from '../dtype.ts';
import { badArgument } from '../errors.ts';
import { enumIndex } from '../native.ts';
import { ROUTER_KEYS, type RouterOptions } from '../router.ts';
import { empty, type Tensor } from '../tensor.ts';
import { disposeOnError, enqueue } from './call.ts';
import { checkExperts, EXPERT_NAMES, type ExpertName, type Experts } from './experts.ts';
import { checkInto, gradient } from './gradient.ts';
import { checkDispatch, type Dispatch, dispatch } from './permute.ts';
import { checkRouting, type Routing, route, routeBackward } from './route.ts';

export const SAVE_MODES = ['nothing', 'activations', 'recompute'] as const;
/**
 * What the forward pass keeps for the backward pass: `nothing` (inference), `activations` (input, routing and pre-activation
 * rows), or `recompute` (input and routing; the backward pass computes the pre-activation rows again, to the same bits).
 */
export type SaveMode = (typeof SAVE_MODES)[number];

/** A routing made elsewhere: expert ids int32 [T, K] and weights float32 [T, K]. */
export type GivenRouting = Pick<Routing, 'indices' | 'weights'>;

export interface RouterParameters extends RouterOptions {
  /** [E, H], of x's dtype or float32 */
  weight: Tensor;
  /** [E], float32 or weight's dtype */
  bias?: Tensor;
}

export interface MoeForwardArgs {
  /** [T, H] float32, bfloat16 or float16 */
  x: Tensor;
  /** The router; or give `routing`. */
  router?: RouterParameters;
  /** A routing made elsewhere, by {@link route} or by hand, instead of `router`. */
  routing?: GivenRouting;
  experts: Experts;
  /** Default `swiglu`. */
  activation?: Activation;
  /** Default `nothing`. */
  save?: SaveMode;
}

interface SavedParts {
  readonly x: Tensor;
  readonly router?: RouterParameters;
  readonly routing: GivenRouting | Routing;
  readonly dispatch: Dispatch;
  readonly experts: Experts;
  readonly activation: Activation;
  readonly preActivation?: Tensor;
}

/**
 * What {@link moeBackward} needs. `x`, the parameters and a given routing are the caller's own tensors: they must live
 * until the backward call. The rest belongs to this object.
 */
export class MoeSaved implements Disposable {
  readonly x: Tensor;
  readonly router: RouterParameters | undefined;
  readonly routing: GivenRouting | Routing;
  readonly dispatch: Dispatch;
  readonly experts: Experts;
  readonly activation: Activation;
  /** [R, 2I] gated (gate columns first) or [R, I]; absent with `recompute` */
  readonly preActivation: Tensor | undefined;

  /** @internal Made by {@link moeForward}. */
  constructor(parts: SavedParts) {
    this.x = parts.x;
    this.router = parts.router;
    this.routing = parts.routing;
    this.dispatch = parts.dispatch;
    this.experts = parts.experts;
    this.activation = parts.activation;
    this.preActivation = parts.preActivation;
  }

  /** Frees what the forward pass made: the pre-activation, the permutation, and the routing unless it was given. */
  dispose(): void {
    this.preActivation?.dispose();
    for (const part of Object.values(this.dispatch)) part.dispose();
    if (this.router) for (const part of routingTensors(this.routing)) part.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

export interface MoeForwardResult {
  /** [T, H] of x's dtype */
  readonly y: Tensor;
  /** The routing that was computed, or that was given. */
  readonly routing: Routing | GivenRouting;
  /** Unless `save` is `nothing`. */
  readonly saved?: MoeSaved;
}

/**
 * The Mixture-of-Experts layer: y[t] = Σ_k w[t, k] · down_e(activation(up_e(x[t]))) with e = index[t, k].
 *
 * Rows are gathered by the up projection itself: no permuted copy of x is made. Deterministic, and a token's output does
 * not depend on the other tokens of the batch.
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_SHAPE, ERR_DTYPE, ERR_DEVICE_MISMATCH, ERR_DISPOSED, ERR_DETACHED,
 *   ERR_OUT_OF_MEMORY; ERR_INDEX_RANGE at the next wait if a given routing names an expert that does not exist
 */
export function moeForward(args: MoeForwardArgs): MoeForwardResult {
  checkKeys('args', args, ['x', 'router', 'routing', 'experts', 'activation', 'save']);
  const x = checkTensor('x', args.x, { dtype: FLOAT_DTYPES, shape: [null, null] });
  const [tokens, hidden] = x.shape as [number, number];
  const activation = checkActivation('activation', args.activation ?? 'swiglu');
  const save = checkOneOf('save', args.save ?? 'nothing', SAVE_MODES);
  const { experts } = args;
  const dims = checkExperts(experts, activation, x.dtype as FloatDType, hidden);
  checkSameDevice({ x, ...experts });
  return disposeOnError(own => {
    const routing = forwardRouting(args, tokens, dims.experts);
    if (args.router) for (const part of routingTensors(routing)) own(part);
    const permutation = dispatch({ indices: routing.indices, experts: dims.experts });
    for (const part of Object.values(permutation)) own(part);
    const rows = permutation.rowSlot.size;
    const y = own(empty([tokens, hidden], { dtype: x.dtype }));
    const preWidth = isGated(activation) ? 2 * dims.intermediate : dims.intermediate;
    const preActivation =
      save === 'activations' ? own(empty([rows, preWidth], { dtype: x.dtype })) : undefined;
    enqueue('expertsForward', {
      ...{ x, ...permutation, weights: routing.weights, ...experts, y, preActivation },
      activation: enumIndex('activation', activation),
    });
    if (save !== 'nothing') {
      const parts = {
        x,
        router: args.router,
        routing,
        dispatch: permutation,
        experts,
        activation,
        preActivation,
      };
      return { y, routing, saved: new MoeSaved(parts) };
    }
    for (const part of Object.values(permutation)) part.dispose();
    return { y, routing };
  });
}

function routingTensors(routing: Routing | GivenRouting): Tensor[] {
  const { indices, weights } = routing;
  return 'logits' in routing ? [routing.logits, indices, weights, routing.counts] : [indices, weights];
}

function forwardRouting(args: MoeForwardArgs, tokens: number, experts: number): Routing | GivenRouting {
  const { x, router, routing } = args;
  if ((router === undefined) === (routing === undefined)) {
    throw badArgument(
      'ERR_INVALID_ARGUMENT',
      'args',
      'either router or routing',
      router ? 'both' : 'neither',
    );
  }
  if (router) {
    checkKeys('router', router, ['weight', 'bias', ...ROUTER_KEYS]);
    checkTensor('router.weight', router.weight, { shape: [experts, x.shape[1]!] });
    return route({ x, ...router });
  }
  const indices = checkTensor('routing.indices', routing!.indices, { dtype: 'int32', shape: [tokens, null] });
  checkTensor('routing.weights', routing!.weights, { dtype: 'float32', shape: indices.shape });
  checkSameDevice({ x, indices, weights: routing!.weights });
  return routing!;
}

export interface MoeBackwardArgs {
  /** [T, H] of x's dtype: the gradient of y */
  dy: Tensor;
  saved: MoeSaved;
  /** float32 [T, E]: a further gradient of the router's logits, a load-balancing loss's say */
  dLogits?: Tensor;
  /** Gradients are added to these instead of being written to new tensors; float32 or the parameter's dtype. */
  accumulateInto?: { [name in ExpertName]?: Tensor } & { routerWeight?: Tensor; routerBias?: Tensor };
}

export interface MoeGradients {
  /** [T, H] of x's dtype */
  readonly dx: Tensor;
  /** float32 [T, K]: the gradient of the routing weights */
  readonly dWeights: Tensor;
  /** float32 [T, E]; when the layer did the routing */
  readonly dLogits?: Tensor;
  /** [E, H]; when the layer did the routing */
  readonly dRouterWeight?: Tensor;
  readonly dRouterBias?: Tensor;
  /** As the experts were given, name for name. */
  readonly experts: { readonly [name in ExpertName]?: Tensor };
}

/**
 * The gradients of {@link moeForward} to its input and to every parameter.
 *
 * dS, dH and the weighted activation come from one grouped product dO·W₂ and its epilogue (SonicMoE, arXiv 2512.14080), so
 * neither expert outputs nor a permuted copy of x or dy is kept. Sums run in a fixed order: the same bits on every run.
 * @throws MoeError as {@link moeForward}
 */
export function moeBackward(args: MoeBackwardArgs): MoeGradients {
  checkKeys('args', args, ['dy', 'saved', 'dLogits', 'accumulateInto']);
  if (!(args.saved instanceof MoeSaved)) {
    throw badArgument('ERR_INVALID_ARGUMENT', 'saved', 'what moeForward saved', describe(args.saved));
  }
  const { saved, accumulateInto: into = {} } = args;
  const { experts, router, routing } = saved;
  checkKeys('accumulateInto', into, [...EXPERT_NAMES, 'routerWeight', 'routerBias']);
  const x = checkTensor('saved.x', saved.x, { dtype: FLOAT_DTYPES, shape: [null, null] });
  const dy = checkTensor('dy', args.dy, { dtype: x.dtype, shape: x.shape });
  const activation = checkActivation('saved.activation', saved.activation);
  const dims = checkExperts(experts, activation, x.dtype as FloatDType, x.shape[1]!);
  const { rows, tokens, topK } = checkDispatch('saved.dispatch', saved.dispatch);
  const weights = checkTensor('saved.routing.weights', routing.weights, {
    dtype: 'float32',
    shape: [tokens, topK],
  });
  const preWidth = isGated(activation) ? 2 * dims.intermediate : dims.intermediate;
  const preActivation = checkOptionalTensor('saved.preActivation', saved.preActivation, {
    dtype: x.dtype,
    shape: [rows, preWidth],
  });
  checkRouterBackward(args, tokens, dims.experts);
  checkSameDevice({ x, dy, weights, preActivation, dLogits: args.dLogits, ...experts });
  return disposeOnError(own => {
    const dx = own(empty(x.shape, { dtype: x.dtype }));
    const dWeights = own(empty([tokens, topK]));
    const gradients: { [name in ExpertName]?: Tensor } = {};
    const gradientArgs: Record<string, Tensor | boolean | undefined> = {};
    for (const name of EXPERT_NAMES) {
      const target = gradient(own, `accumulateInto.${name}`, experts[name], into[name]);
      if (target === undefined) continue;
      gradients[name] = target;
      const argument = `d${name[0]!.toUpperCase()}${name.slice(1)}`;
      gradientArgs[argument] = target;
      gradientArgs[`accumulate${argument[0]!.toUpperCase()}${argument.slice(1)}`] = into[name] !== undefined;
    }
    checkSameDevice({ x, ...gradients, routerWeight: into.routerWeight, routerBias: into.routerBias });
    enqueue('expertsBackward', {
      ...{ dy, x, ...saved.dispatch, weights, ...experts, preActivation, dx, dWeights, ...gradientArgs },
      activation: enumIndex('activation', activation),
    });
    if (!router) return { dx, dWeights, experts: gradients };
    const routed = routeBackward({
      ...{
        routing: routing as Routing,
        dWeights,
        dLogits: args.dLogits,
        x,
        weight: router.weight,
        bias: router.bias,
      },
      accumulateInto: { dx, weight: into.routerWeight, bias: into.routerBias },
    });
    const { dLogits, dWeight: dRouterWeight, dBias: dRouterBias } = routed;
    return { dx, dWeights, dLogits, dRouterWeight, dRouterBias, experts: gradients };
  });
}

/** The router's share of the backward arguments, checked before the experts' share is enqueued. */
function checkRouterBackward(
  { saved, dLogits, accumulateInto: into = {} }: MoeBackwardArgs,
  tokens: number,
  experts: number,
): void {
  const { router, routing, x } = saved;
  if (router) {
    checkRouting('saved.routing', routing as Routing);
    checkTensor('saved.router.weight', router.weight, { shape: [experts, x.shape[1]!] });
    checkOptionalTensor('saved.router.bias', router.bias, { shape: [experts] });
    checkOptionalTensor('dLogits', dLogits, { dtype: 'float32', shape: [tokens, experts] });
    checkInto('accumulateInto.routerWeight', router.weight, into.routerWeight);
    checkInto('accumulateInto.routerBias', router.bias, into.routerBias);
  } else if (dLogits || into.routerWeight || into.routerBias) {
    throw badArgument(
      'ERR_INVALID_ARGUMENT',
      'args',
      'no router gradients for a given routing',
      'dLogits or accumulateInto.router…',
    );
  }
}
