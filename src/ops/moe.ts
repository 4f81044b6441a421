// The fused layer: route, dispatch, experts and combine in one call, and their backward in another.

import { ACTIVATION_KEYS, type ActivationOptions, resolveActivation } from '../activation.ts';
import {
  checkInteger,
  checkKeys,
  checkOneOf,
  checkOptionalTensor,
  checkSameDevice,
  checkTensor,
} from '../check.ts';
import { describe, FLOAT_DTYPES, type FloatDType } from '../dtype.ts';
import { badArgument } from '../errors.ts';
import { type Calls, recall, treatAsRecord } from '../recall.ts';
import { ROUTER_KEYS, type RouterOptions } from '../router.ts';
import { ROUTE_CALL_KEYS, type RouteCall } from '../router-run.ts';
import { empty, type Tensor } from '../tensor.ts';
import { disposeOnError } from './call.ts';
import {
  blockBackward,
  blockForward,
  checkBlock,
  checkExpertsInto,
  type ExpertBlock,
  type ExpertGradients,
  expertTargets,
  preActivationWidth,
} from './expert-block.ts';
import { checkExperts, EXPERT_NAMES, type Experts, expertTensors } from './experts.ts';
import { checkInto, givenNames } from './gradient.ts';
import { dispatch } from './permute.ts';
import {
  checkNoiseGradient,
  checkRouting,
  ROUTER_GRADIENTS,
  ROUTER_TENSORS,
  type RouterTensors,
  type Routing,
  route,
  routeBackward,
  routingTensors,
} from './route.ts';
import {
  checkShared,
  checkSharedInto,
  disposeShared,
  type SharedExpert,
  type SharedGradients,
  type SharedSaved,
  sharedBackward,
  sharedForward,
} from './shared.ts';

export const SAVE_MODES = ['nothing', 'activations', 'recompute'] as const;
/**
 * What the forward pass keeps for the backward pass: `nothing` (inference), `activations` (input, routing and pre-activation
 * rows), or `recompute` (input and routing; the backward pass computes the pre-activation rows again, to the same bits).
 */
export type SaveMode = (typeof SAVE_MODES)[number];

export const WEIGHT_SIDES = ['output', 'input'] as const;
/** Whether the routing weight multiplies the expert's output, or its input (Llama 4). */
export type WeightSide = (typeof WEIGHT_SIDES)[number];

/** A routing made elsewhere: expert ids int32 [T, K] and weights float32 [T, K]; dropped int32 [T, K] where some are. */
export type GivenRouting = Pick<Routing, 'indices' | 'weights' | 'dropped'> &
  Partial<Pick<Routing, 'router' | 'run'>>;

/** A router's description, its parameters, and what this call adds to them. */
export interface RouterParameters extends RouterOptions, RouterTensors, RouteCall {}

export interface MoeForwardArgs extends ActivationOptions {
  /** [T, H] float32, bfloat16 or float16 */
  x: Tensor;
  /** The router; or give `routing`. */
  router?: RouterParameters;
  /** A routing made elsewhere, by {@link route} or by hand, instead of `router`. */
  routing?: GivenRouting;
  experts: Experts;
  /** Adds its output to that of the routed experts; the same activation. */
  shared?: SharedExpert;
  /** Default `output`. */
  applyWeightTo?: WeightSide;
  /** Default `nothing`. */
  save?: SaveMode;
}

interface SavedParts {
  readonly router: RouterParameters | undefined;
  readonly routing: GivenRouting | Routing;
  readonly block: ExpertBlock;
  readonly shared: { readonly parameters: SharedExpert; readonly saved: SharedSaved } | undefined;
}

/**
 * What {@link moeBackward} needs. `x`, the parameters and a given routing are the caller's own tensors: they must live
 * until the backward call. The rest belongs to this object.
 */
export class MoeSaved implements Disposable, SavedParts {
  readonly router: RouterParameters | undefined;
  readonly routing: GivenRouting | Routing;
  readonly block: ExpertBlock;
  readonly shared: SavedParts['shared'];

  /** @internal Made by {@link moeForward}. */
  constructor(parts: SavedParts) {
    this.router = parts.router;
    this.routing = parts.routing;
    this.block = parts.block;
    this.shared = parts.shared;
  }

  /** Frees what the forward pass made: pre-activations, permutations, and the routing unless it was given. */
  dispose(): void {
    this.block.preActivation?.dispose();
    for (const part of Object.values(this.block.dispatch)) part.dispose();
    if (this.router) for (const part of routingTensors(this.routing)) part.dispose();
    if (this.shared) disposeShared(this.shared.saved);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

treatAsRecord(MoeSaved);

export interface MoeForwardResult {
  /** [T, H] of x's dtype */
  readonly y: Tensor;
  /** The routing that was computed, or that was given. */
  readonly routing: Routing | GivenRouting;
  /** Unless `save` is `nothing`. */
  readonly saved?: MoeSaved;
}

/**
 * The Mixture-of-Experts layer: y[t] = Σ_k w[t, k] · down_e(activation(up_e(x[t]))) with e = index[t, k], plus the shared
 * expert. A dropped slot adds nothing, one of an identity expert w · x[t].
 *
 * Rows are gathered by the up projection itself: no permuted copy of x is made. Deterministic, and a token's output does
 * not depend on the other tokens of the batch (but for who is dropped, with a capacity).
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_SHAPE, ERR_DTYPE, ERR_DEVICE_MISMATCH, ERR_DISPOSED, ERR_DETACHED,
 *   ERR_OUT_OF_MEMORY; ERR_INDEX_RANGE at the next wait if a given routing names an expert that does not exist
 */
export function moeForward(args: MoeForwardArgs): MoeForwardResult {
  return recall(FORWARDS, args, moeForwardAnew);
}

const FORWARDS: Calls = [];

function moeForwardAnew(args: MoeForwardArgs): MoeForwardResult {
  const keys = ['x', 'router', 'routing', 'experts', 'shared', 'applyWeightTo', 'save', ...ACTIVATION_KEYS];
  checkKeys('args', args, keys);
  const x = checkTensor('x', args.x, { dtype: FLOAT_DTYPES, shape: [null, null] });
  const [tokens, hidden] = x.shape as [number, number];
  const activation = resolveActivation('', args, 'swiglu');
  const save = checkOneOf('save', args.save ?? 'nothing', SAVE_MODES);
  const weightOnInput = checkOneOf('applyWeightTo', args.applyWeightTo ?? 'output', WEIGHT_SIDES) === 'input';
  const { router, experts, shared } = args;
  const dims = checkExperts(experts, activation.activation, x.dtype as FloatDType, hidden);
  if (shared !== undefined) checkShared(shared, activation, x.dtype as FloatDType, hidden);
  checkSameDevice({ x, ...expertTensors(experts) });
  checkSameDevice({ x, ...sharedByName(shared) });
  return disposeOnError(own => {
    const routing = forwardRouting(args, tokens, dims.experts);
    if (router) for (const part of routingTensors(routing)) own(part);
    const { indices, weights, dropped } = routing;
    const { identityExperts } = routing.router ?? {};
    const { rows } = routing.run ?? {};
    const permutation = dispatch({ indices, experts: dims.experts, identityExperts, dropped, rows });
    for (const part of Object.values(permutation)) own(part);
    const y = own(empty([tokens, hidden], { dtype: x.dtype, device: x.device }));
    const preShape = [permutation.rowSlot.size, preActivationWidth(activation, dims.intermediate)];
    const preActivation =
      save === 'activations' ? own(empty(preShape, { dtype: x.dtype, device: x.device })) : undefined;
    const block = { x, experts, activation, weightOnInput, dispatch: permutation, weights, preActivation };
    blockForward(block, y, false);
    const savePreActivation = save === 'activations';
    const sharedSaved = shared && sharedForward(own, shared, activation, { x, y, savePreActivation });
    if (save !== 'nothing') {
      const sharedParts = shared && sharedSaved && { parameters: shared, saved: sharedSaved };
      return { y, routing, saved: new MoeSaved({ router, routing, block, shared: sharedParts }) };
    }
    for (const part of Object.values(permutation)) part.dispose();
    if (sharedSaved) disposeShared(sharedSaved);
    return { y, routing };
  });
}

/** Under names of their own: a shared expert's are also those of a routed one. */
function sharedByName(shared: SharedExpert | undefined): Record<string, Tensor | undefined> {
  return Object.fromEntries(Object.entries(shared ?? {}).map(([name, value]) => [`shared.${name}`, value]));
}

function forwardRouting(args: MoeForwardArgs, tokens: number, experts: number): Routing | GivenRouting {
  const { x, router, routing } = args;
  if ((router === undefined) === (routing === undefined)) {
    const got = router ? 'both' : 'neither';
    throw badArgument('ERR_INVALID_ARGUMENT', 'args', 'either router or routing', got);
  }
  if (router) {
    checkKeys('router', router, [...ROUTER_TENSORS, ...ROUTE_CALL_KEYS, ...ROUTER_KEYS]);
    const logits = experts + checkInteger('router.identityExperts', router.identityExperts ?? 0, 0);
    checkTensor('router.weight', router.weight, { shape: [logits, x.shape[1]!] });
    return route({ x, ...router });
  }
  const given = routing!;
  const indices = checkTensor('routing.indices', given.indices, { dtype: 'int32', shape: [tokens, null] });
  checkTensor('routing.weights', given.weights, { dtype: 'float32', shape: indices.shape });
  checkOptionalTensor('routing.dropped', given.dropped, { dtype: 'int32', shape: indices.shape });
  checkSameDevice({ x, indices, weights: given.weights, dropped: given.dropped });
  return given;
}

export interface MoeBackwardArgs {
  /** [T, H] of x's dtype: the gradient of y */
  dy: Tensor;
  saved: MoeSaved;
  /** float32 [T, E']: a further gradient of the scored logits, a load-balancing loss's say */
  dLogits?: Tensor;
  /** float32 [T, E']: a further gradient of the noise logits, the load loss's */
  dNoiseLogits?: Tensor;
  /** Gradients are added to these instead of being written to new tensors; float32 or the parameter's dtype. */
  accumulateInto?: ExpertGradients & {
    routerWeight?: Tensor;
    routerBias?: Tensor;
    routerExpertScale?: Tensor;
    routerNoiseWeight?: Tensor;
    routerLoraA?: Tensor;
    routerLoraB?: Tensor;
    sharedGate?: Tensor;
    sharedUp?: Tensor;
    sharedDown?: Tensor;
    sharedRouter?: Tensor;
    sharedWeights?: Tensor;
  };
}

/** `weight` → `routerWeight` */
const routerInto = <T extends string>(name: T) =>
  `router${name[0]!.toUpperCase()}${name.slice(1)}` as `router${Capitalize<T>}`;
const ROUTER_INTO = ROUTER_GRADIENTS.map(routerInto);
const SHARED_INTO = ['sharedGate', 'sharedUp', 'sharedDown', 'sharedRouter', 'sharedWeights'] as const;

export interface MoeGradients {
  /** [T, H] of x's dtype */
  readonly dx: Tensor;
  /** float32 [T, K]: the gradient of the routing weights */
  readonly dWeights: Tensor;
  /** float32 [T, E']; when the layer did the routing */
  readonly dLogits?: Tensor;
  /** float32 [T, E']; where the routing has noise logits */
  readonly dNoiseLogits?: Tensor;
  /** [E', H]; when the layer did the routing, unless a low-rank pair froze it */
  readonly dRouterWeight?: Tensor;
  /** [E']; where the router has a bias, unless a low-rank pair froze it */
  readonly dRouterBias?: Tensor;
  /** [E]; where the router has an expert scale */
  readonly dRouterExpertScale?: Tensor;
  /** [E', H]; where the router has a noise weight */
  readonly dRouterNoiseWeight?: Tensor;
  /** [r, H] and [E', r]; where the router has a low-rank pair */
  readonly dRouterLoraA?: Tensor;
  readonly dRouterLoraB?: Tensor;
  /** As the experts were given, name for name; where there are low-rank pairs, those of the pairs alone. */
  readonly experts: ExpertGradients;
  /** As the shared expert was given, name for name. */
  readonly shared?: SharedGradients;
}

/**
 * The gradients of {@link moeForward} to its input and to every parameter.
 *
 * dS, dH and the weighted activation come from one grouped product dO·W₂ and its epilogue (SonicMoE, arXiv 2512.14080), so
 * neither expert outputs nor a permuted copy of x or dy is kept. Sums run in a fixed order: the same bits on every run.
 * @throws MoeError as {@link moeForward}
 */
export function moeBackward(args: MoeBackwardArgs): MoeGradients {
  return recall(BACKWARDS, args, moeBackwardAnew);
}

const BACKWARDS: Calls = [];

function moeBackwardAnew(args: MoeBackwardArgs): MoeGradients {
  checkKeys('args', args, ['dy', 'saved', 'dLogits', 'dNoiseLogits', 'accumulateInto']);
  if (!(args.saved instanceof MoeSaved)) {
    throw badArgument('ERR_INVALID_ARGUMENT', 'saved', 'what moeForward saved', describe(args.saved));
  }
  const { saved, accumulateInto: into = {} } = args;
  const { router, routing, block, shared } = saved;
  const { activation } = block;
  checkKeys('accumulateInto', into, [...EXPERT_NAMES, ...ROUTER_INTO, ...SHARED_INTO]);
  const x = checkTensor('saved.x', block.x, { dtype: FLOAT_DTYPES, shape: [null, null] });
  const dy = checkTensor('dy', args.dy, { dtype: x.dtype, shape: x.shape });
  const sharedInto = {
    gate: into.sharedGate,
    up: into.sharedUp,
    down: into.sharedDown,
    router: into.sharedRouter,
    weights: into.sharedWeights,
  };
  checkBackward(args, sharedInto);
  return disposeOnError(own => {
    const dx = own(empty(x.shape, { dtype: x.dtype, device: x.device }));
    const experts = expertTargets(own, block.experts, into);
    const added = givenNames(into);
    const dWeights = blockBackward(own, block, { dy, dx, accumulateDx: false, targets: experts, added });
    const sharedGradients =
      shared &&
      sharedBackward(own, shared.parameters, shared.saved, activation, { x, dy, dx, into: sharedInto });
    const layer = { dx, dWeights, experts, ...(sharedGradients && { shared: sharedGradients }) };
    if (!router) return layer;
    const routerTensors: RouterGradientTensors = {};
    const accumulateInto: RouterGradientTensors & { dx: Tensor } = { dx };
    for (const name of ROUTER_GRADIENTS) {
      if (router[name]) routerTensors[name] = router[name];
      if (into[routerInto(name)]) accumulateInto[name] = into[routerInto(name)];
    }
    const { dLogits, dNoiseLogits } = args;
    const routed = routeBackward({
      ...{ routing: routing as Routing, dWeights, dLogits, dNoiseLogits, x, ...routerTensors },
      ...{ loraScale: router.loraScale, accumulateInto },
    });
    return {
      ...layer,
      dLogits: routed.dLogits,
      dNoiseLogits: routed.dNoiseLogits,
      dRouterWeight: routed.dWeight,
      dRouterBias: routed.dBias,
      dRouterExpertScale: routed.dExpertScale,
      dRouterNoiseWeight: routed.dNoiseWeight,
      dRouterLoraA: routed.dLoraA,
      dRouterLoraB: routed.dLoraB,
    };
  });
}

/** Every argument of the backward pass, before any of it is enqueued. */
function checkBackward(args: MoeBackwardArgs, sharedInto: SharedGradients): void {
  const { saved, dy, dLogits, dNoiseLogits, accumulateInto: into = {} } = args;
  const { router, routing, block, shared } = saved;
  const { experts } = checkBlock('saved', block);
  checkExpertsInto(block.experts, into);
  if (shared) {
    checkShared(shared.parameters, block.activation, block.x.dtype as FloatDType, block.x.shape[1]!);
  }
  checkSharedInto(shared?.parameters, sharedInto);
  checkSameDevice({ x: block.x, dy, dLogits, dNoiseLogits, ...into });
  checkSameDevice({ x: block.x, ...sharedByName(shared?.parameters) });
  if (router) {
    const { logits } = checkRouting('saved.routing', routing as Routing);
    const logitCount = experts + (router.identityExperts ?? 0);
    checkRouterTensors(router, experts, logitCount, block.x.shape[1]!);
    checkOptionalTensor('dLogits', dLogits, { dtype: 'float32', shape: logits.shape });
    checkNoiseGradient(routing as Routing, dNoiseLogits);
    for (const name of ROUTER_GRADIENTS) {
      const frozen = router.loraA !== undefined && (name === 'weight' || name === 'bias');
      checkInto(
        `accumulateInto.${routerInto(name)}`,
        frozen ? undefined : router[name],
        into[routerInto(name)],
      );
    }
  } else if (dLogits || dNoiseLogits || ROUTER_INTO.some(name => into[name])) {
    const expected = 'no router gradients for a given routing';
    throw badArgument('ERR_INVALID_ARGUMENT', 'args', expected, 'dLogits or accumulateInto.router…');
  }
}

type RouterGradientTensors = { [name in (typeof ROUTER_GRADIENTS)[number]]?: Tensor };

function checkRouterTensors(router: RouterTensors, experts: number, logits: number, hidden: number): void {
  const { weight, loraA, loraB } = router;
  checkTensor('saved.router.weight', weight, { shape: [logits, hidden] });
  checkOptionalTensor('saved.router.bias', router.bias, { shape: [logits] });
  checkOptionalTensor('saved.router.expertScale', router.expertScale, { shape: [experts] });
  checkOptionalTensor('saved.router.noiseWeight', router.noiseWeight, { shape: [logits, hidden] });
  checkOptionalTensor('saved.router.loraA', loraA, { shape: [null, hidden] });
  checkOptionalTensor('saved.router.loraB', loraB, { shape: [logits, loraA?.shape[0] ?? null] });
}
