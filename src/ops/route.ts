// Routing: logits, scores, top-k, weights and counts, and the way back to the logits, x and the router's parameters.

import {
  checkInteger,
  checkKeys,
  checkOptionalTensor,
  checkRowCount,
  checkSameDevice,
  checkTensor,
} from '../check.ts';
import { FLOAT_DTYPES } from '../dtype.ts';
import { badArgument } from '../errors.ts';
import {
  nativeRouter,
  type ResolvedRouter,
  ROUTER_KEYS,
  type RouterOptions,
  resolveRouter,
} from '../router.ts';
import { empty, type Tensor } from '../tensor.ts';
import { disposeOnError, enqueue } from './call.ts';
import { gradient } from './gradient.ts';

/** The outcome of {@link route}: what dispatch, combine and the backward pass need to know. */
export interface Routing {
  /** float32 [T, E'] */
  readonly logits: Tensor;
  /** int32 [T, K], in descending order of what they were chosen by, ties to the lower id */
  readonly indices: Tensor;
  /** float32 [T, K], final weights, in the order of `indices` */
  readonly weights: Tensor;
  /** int32 [E'], slots that chose each expert, dropped ones included */
  readonly counts: Tensor;
  /** int32 [T, K], 1 where a slot was dropped; present with a capacity */
  readonly dropped?: Tensor;
  readonly router: ResolvedRouter;
}

/** Every tensor a routing holds. */
export function routingTensors(routing: Pick<Routing, 'indices' | 'weights'> & Partial<Routing>): Tensor[] {
  const { logits, indices, weights, counts, dropped } = routing;
  return [logits, indices, weights, counts, dropped].filter(tensor => tensor !== undefined);
}

/** A router's parameters. E' = E + identity experts. */
export interface RouterTensors {
  /** [E', H], of x's dtype or float32. logits = x · weightᵀ + bias, accumulated in float32. */
  weight: Tensor;
  /** [E'], float32 or weight's dtype */
  bias?: Tensor;
  /** float32 [E']: added to the scores when choosing, never to the weights (DeepSeek-V3, arXiv 2408.15664) */
  selectionBias?: Tensor;
  /** [E], float32 or another float dtype: multiplies the final weight of each chosen expert */
  expertScale?: Tensor;
}

export interface RouteArgs extends RouterOptions, Partial<RouterTensors> {
  /** [T, H] float32, bfloat16 or float16, with `weight`; or give `logits` instead. */
  x?: Tensor;
  /** float32 [T, E'], instead of `x`, `weight` and `bias` */
  logits?: Tensor;
}

export const ROUTER_TENSORS = ['weight', 'bias', 'selectionBias', 'expertScale'] as const;

/**
 * Chooses K experts for each token and weighs them ({@link RouterOptions} says how).
 *
 * A NaN logit ranks below every number; indices are always K distinct experts.
 * @returns logits [T, E'], indices [T, K], weights [T, K], counts [E'], and with a capacity dropped [T, K]; `logits` is the
 *   given tensor where one was given
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_SHAPE, ERR_DTYPE, ERR_DEVICE_MISMATCH, ERR_DISPOSED, ERR_DETACHED
 */
export function route(args: RouteArgs): Routing {
  checkKeys('args', args, ['x', 'logits', ...ROUTER_TENSORS, ...ROUTER_KEYS]);
  const { x, weight, bias, selectionBias, expertScale, logits: given, ...options } = args;
  if ((given === undefined) === (x === undefined)) {
    const got = given ? 'both' : 'neither';
    throw badArgument('ERR_INVALID_ARGUMENT', 'args', 'either x and weight, or logits', got);
  }
  const { tokens, experts } = given ? checkLogits(given, weight, bias) : checkRouterInputs(x!, weight, bias);
  const router = resolveRouter('router', options, experts);
  checkOptionalTensor('selectionBias', selectionBias, { dtype: 'float32', shape: [experts] });
  if (selectionBias && router.score === 'sparsemixer') {
    throw badArgument('ERR_INVALID_ARGUMENT', 'selectionBias', 'nothing with sparsemixer', 'a tensor');
  }
  const scaled = [experts - router.identityExperts];
  checkOptionalTensor('expertScale', expertScale, { dtype: FLOAT_DTYPES, shape: scaled });
  checkRowCount(tokens, router.topK);
  checkSameDevice({ x, weight, bias, selectionBias, expertScale, logits: given });
  return disposeOnError(own => {
    const slots = [tokens, router.topK];
    const logits = given ?? own(empty([tokens, experts]));
    const indices = own(empty(slots, { dtype: 'int32' }));
    const weights = own(empty(slots));
    const counts = own(empty([experts], { dtype: 'int32' }));
    const dropped = router.capacity && own(empty(slots, { dtype: 'int32' }));
    enqueue('route', {
      ...{ x, weight, bias, selectionBias, expertScale, logits, indices, weights, counts, dropped },
      ...nativeRouter(router),
    });
    return { logits, indices, weights, counts, ...(dropped && { dropped }), router };
  });
}

function checkLogits(logits: Tensor, weight: unknown, bias: unknown): { tokens: number; experts: number } {
  checkTensor('logits', logits, { dtype: 'float32', shape: [null, null] });
  for (const [name, value] of Object.entries({ weight, bias })) {
    if (value !== undefined)
      throw badArgument('ERR_INVALID_ARGUMENT', name, 'nothing beside logits', 'a value');
  }
  return { tokens: logits.shape[0]!, experts: logits.shape[1]! };
}

function checkRouterInputs(x: Tensor, weight: unknown, bias: unknown): { tokens: number; experts: number } {
  checkTensor('x', x, { dtype: FLOAT_DTYPES, shape: [null, null] });
  const [tokens, hidden] = x.shape as [number, number];
  const checked = checkTensor('weight', weight, { dtype: [x.dtype, 'float32'], shape: [null, hidden] });
  const experts = checked.shape[0]!;
  checkOptionalTensor('bias', bias, { dtype: [checked.dtype, 'float32'], shape: [experts] });
  return { tokens, experts };
}

export interface RouteBackwardArgs {
  routing: Routing;
  /** float32 [T, K]: gradient of `routing.weights` */
  dWeights?: Tensor;
  /** float32 [T, E']: a further gradient of the logits, an auxiliary loss's say, added to the result */
  dLogits?: Tensor;
  /** [T, H], as given to {@link route}; asks for `dWeight` */
  x?: Tensor;
  /** [E', H], as given to {@link route}; asks for `dx` */
  weight?: Tensor;
  /** The bias given to {@link route}; asks for `dBias` */
  bias?: Tensor;
  /** The expert scale given to {@link route}, needed where one was; asks for `dExpertScale` */
  expertScale?: Tensor;
  /** Gradients are added to these instead of being written to new tensors; float32 or the parameter's dtype. */
  accumulateInto?: { dx?: Tensor; weight?: Tensor; bias?: Tensor; expertScale?: Tensor };
}

export interface RouteGradients {
  /** float32 [T, E'] */
  readonly dLogits: Tensor;
  /** [T, H], x's dtype; when `weight` was given */
  readonly dx?: Tensor;
  /** [E', H]; when `x` was given */
  readonly dWeight?: Tensor;
  /** [E']; when `bias` was given */
  readonly dBias?: Tensor;
  /** [E]; when `expertScale` was given */
  readonly dExpertScale?: Tensor;
}

/**
 * The gradient of {@link route}: through scales, normalisation and score to the logits, then dx = dLogits · weight,
 * dWeight = dLogitsᵀ · x, dBias = Σ_t dLogits. The choice of experts itself is not differentiated, so neither is the
 * selection bias; nothing flows through a dropped slot.
 * @throws MoeError as {@link route}
 */
export function routeBackward(args: RouteBackwardArgs): RouteGradients {
  const keys = ['routing', 'dWeights', 'dLogits', 'x', 'weight', 'bias', 'expertScale', 'accumulateInto'];
  checkKeys('args', args, keys);
  const { routing, accumulateInto: into = {} } = args;
  checkKeys('accumulateInto', into, ['dx', 'weight', 'bias', 'expertScale']);
  const { logits, indices, dropped, router } = checkRouting('routing', routing);
  const [tokens, experts] = logits.shape as [number, number];
  const slots = [tokens, router.topK];
  const dWeights = checkOptionalTensor('dWeights', args.dWeights, { dtype: 'float32', shape: slots });
  const extra = checkOptionalTensor('dLogits', args.dLogits, { dtype: 'float32', shape: [tokens, experts] });
  const parameter = (name: 'weight' | 'bias' | 'expertScale', shape: (number | null)[]) =>
    checkOptionalTensor(name, args[name], { dtype: FLOAT_DTYPES, shape });
  const x = checkOptionalTensor('x', args.x, { dtype: FLOAT_DTYPES, shape: [tokens, null] });
  const weight = parameter('weight', [experts, x?.shape[1] ?? null]);
  const bias = parameter('bias', [experts]);
  const expertScale = parameter('expertScale', [experts - router.identityExperts]);
  checkSameDevice({ logits, dWeights, dLogits: extra, x, weight, bias, expertScale });
  return disposeOnError(own => {
    const dLogits = own(empty([tokens, experts]));
    const hidden = x?.shape[1] ?? weight?.shape[1] ?? 0;
    const dxDType = x?.dtype ?? into.dx?.dtype ?? weight?.dtype ?? 'float32';
    const dxSpec = weight && { shape: [tokens, hidden], dtype: dxDType };
    const weightSpec = x && { shape: [experts, hidden], dtype: weight?.dtype ?? x.dtype };
    const dx = gradient(own, 'accumulateInto.dx', dxSpec, into.dx);
    const dWeight = gradient(own, 'accumulateInto.weight', weightSpec, into.weight);
    const dBias = gradient(own, 'accumulateInto.bias', bias, into.bias);
    const dExpertScale = gradient(own, 'accumulateInto.expertScale', expertScale, into.expertScale);
    checkSameDevice({ logits, dx, dWeight, dBias, dExpertScale });
    enqueue('routeBackward', {
      ...{ logits, indices, dropped, dWeights, extraDLogits: extra, x, weight, expertScale, dLogits },
      ...{ dx, dWeight, dBias, dExpertScale, ...nativeRouter(router) },
      accumulateDx: into.dx !== undefined,
      accumulateDWeight: into.weight !== undefined,
      accumulateDBias: into.bias !== undefined,
      accumulateDExpertScale: into.expertScale !== undefined,
    });
    return { dLogits, dx, dWeight, dBias, dExpertScale };
  });
}

/** A routing whose tensors are alive and still fit together. */
export function checkRouting(name: string, routing: Routing): Routing {
  checkKeys(name, routing, ['logits', 'indices', 'weights', 'counts', 'dropped', 'router']);
  const logits = checkTensor(`${name}.logits`, routing.logits, { dtype: 'float32', shape: [null, null] });
  const tokens = logits.shape[0]!;
  const topK = checkInteger(`${name}.router.topK`, routing.router?.topK, 1, logits.shape[1]);
  checkTensor(`${name}.indices`, routing.indices, { dtype: 'int32', shape: [tokens, topK] });
  checkTensor(`${name}.weights`, routing.weights, { dtype: 'float32', shape: [tokens, topK] });
  checkOptionalTensor(`${name}.dropped`, routing.dropped, { dtype: 'int32', shape: [tokens, topK] });
  return routing;
}
