// Routing: logits, scores, top-k, weights and counts, and the way back to the logits, x and the router's weight.

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
  /** float32 [T, E] */
  readonly logits: Tensor;
  /** int32 [T, K], by descending score, ties to the lower id */
  readonly indices: Tensor;
  /** float32 [T, K], final weights, in the order of `indices` */
  readonly weights: Tensor;
  /** int32 [E], routed rows per expert */
  readonly counts: Tensor;
  readonly router: ResolvedRouter;
}

export interface RouteArgs extends RouterOptions {
  /** [T, H] float32, bfloat16 or float16, with `weight`; or give `logits` instead. */
  x?: Tensor;
  /** [E, H], of x's dtype or float32. logits = x · weightᵀ + bias, accumulated in float32. */
  weight?: Tensor;
  /** float32 or weight's dtype [E] */
  bias?: Tensor;
  /** float32 [T, E], instead of `x` and `weight` */
  logits?: Tensor;
}

/**
 * Chooses K experts for each token and weighs them ({@link RouterOptions} says how).
 *
 * A NaN logit ranks below every number; indices are always K distinct experts.
 * @returns logits [T, E], indices [T, K], weights [T, K], counts [E]; `logits` is the given tensor where one was given
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_SHAPE, ERR_DTYPE, ERR_DEVICE_MISMATCH, ERR_DISPOSED, ERR_DETACHED
 */
export function route(args: RouteArgs): Routing {
  checkKeys('args', args, ['x', 'weight', 'bias', 'logits', ...ROUTER_KEYS]);
  const { x, weight, bias, logits: given, ...options } = args;
  if ((given === undefined) === (x === undefined)) {
    throw badArgument(
      'ERR_INVALID_ARGUMENT',
      'args',
      'either x and weight, or logits',
      given ? 'both' : 'neither',
    );
  }
  const { tokens, experts } = given ? checkLogits(given, weight, bias) : checkRouterInputs(x!, weight, bias);
  const router = resolveRouter('router', options, experts);
  checkRowCount(tokens, router.topK);
  checkSameDevice({ x, weight, bias, logits: given });
  return disposeOnError(own => {
    const logits = given ?? own(empty([tokens, experts]));
    const indices = own(empty([tokens, router.topK], { dtype: 'int32' }));
    const weights = own(empty([tokens, router.topK]));
    const counts = own(empty([experts], { dtype: 'int32' }));
    enqueue('route', { x, weight, bias, logits, indices, weights, counts, ...nativeRouter(router) });
    return { logits, indices, weights, counts, router };
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
  /** float32 [T, E]: a further gradient of the logits, an auxiliary loss's say, added to the result */
  dLogits?: Tensor;
  /** [T, H], as given to {@link route}; asks for `dWeight` */
  x?: Tensor;
  /** [E, H], as given to {@link route}; asks for `dx` */
  weight?: Tensor;
  /** The bias given to {@link route}; asks for `dBias` */
  bias?: Tensor;
  /** Gradients are added to these instead of being written to new tensors; float32 or the parameter's dtype. */
  accumulateInto?: { dx?: Tensor; weight?: Tensor; bias?: Tensor };
}

export interface RouteGradients {
  /** float32 [T, E] */
  readonly dLogits: Tensor;
  /** [T, H], x's dtype; when `weight` was given */
  readonly dx?: Tensor;
  /** [E, H]; when `x` was given */
  readonly dWeight?: Tensor;
  /** [E]; when `bias` was given */
  readonly dBias?: Tensor;
}

/**
 * The gradient of {@link route}: through scale, normalisation and score to the logits, then dx = dLogits · weight,
 * dWeight = dLogitsᵀ · x, dBias = Σ_t dLogits. The choice of experts itself is not differentiated.
 * @throws MoeError as {@link route}
 */
export function routeBackward(args: RouteBackwardArgs): RouteGradients {
  checkKeys('args', args, ['routing', 'dWeights', 'dLogits', 'x', 'weight', 'bias', 'accumulateInto']);
  const { routing, accumulateInto: into = {} } = args;
  checkKeys('accumulateInto', into, ['dx', 'weight', 'bias']);
  const { logits, indices, router } = checkRouting('routing', routing);
  const [tokens, experts] = logits.shape as [number, number];
  const dWeights = checkOptionalTensor('dWeights', args.dWeights, {
    dtype: 'float32',
    shape: [tokens, router.topK],
  });
  const extra = checkOptionalTensor('dLogits', args.dLogits, { dtype: 'float32', shape: [tokens, experts] });
  const x = checkOptionalTensor('x', args.x, { dtype: FLOAT_DTYPES, shape: [tokens, null] });
  const weight = checkOptionalTensor('weight', args.weight, {
    dtype: FLOAT_DTYPES,
    shape: [experts, x?.shape[1] ?? null],
  });
  const bias = checkOptionalTensor('bias', args.bias, { dtype: FLOAT_DTYPES, shape: [experts] });
  checkSameDevice({ logits, dWeights, dLogits: extra, x, weight, bias });
  return disposeOnError(own => {
    const dLogits = own(empty([tokens, experts]));
    const hidden = x?.shape[1] ?? weight?.shape[1] ?? 0;
    const dxDType = x?.dtype ?? into.dx?.dtype ?? weight?.dtype ?? 'float32';
    const dx = gradient(
      own,
      'accumulateInto.dx',
      weight && { shape: [tokens, hidden], dtype: dxDType },
      into.dx,
    );
    const weightSpec = x && { shape: [experts, hidden], dtype: weight?.dtype ?? x.dtype };
    const dWeight = gradient(own, 'accumulateInto.weight', weightSpec, into.weight);
    const dBias = gradient(own, 'accumulateInto.bias', bias, into.bias);
    checkSameDevice({ logits, dx, dWeight, dBias });
    enqueue('routeBackward', {
      ...{ logits, indices, dWeights, extraDLogits: extra, x, weight, dLogits },
      ...{ dx, dWeight, dBias, ...nativeRouter(router) },
      accumulateDx: into.dx !== undefined,
      accumulateDWeight: into.weight !== undefined,
      accumulateDBias: into.bias !== undefined,
    });
    return { dLogits, dx, dWeight, dBias };
  });
}

/** A routing whose tensors are alive and still fit together. */
export function checkRouting(name: string, routing: Routing): Routing {
  checkKeys(name, routing, ['logits', 'indices', 'weights', 'counts', 'router']);
  const logits = checkTensor(`${name}.logits`, routing.logits, { dtype: 'float32', shape: [null, null] });
  const tokens = logits.shape[0]!;
  const topK = checkInteger(`${name}.router.topK`, routing.router?.topK, 1, logits.shape[1]);
  checkTensor(`${name}.indices`, routing.indices, { dtype: 'int32', shape: [tokens, topK] });
  checkTensor(`${name}.weights`, routing.weights, { dtype: 'float32', shape: [tokens, topK] });
  return routing;
}
