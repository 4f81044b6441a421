// Routing: logits, scores, top-k, weights and counts, and the way back to the logits, x and the router's parameters.

import {
  checkFinite,
  checkInteger,
  checkKeys,
  checkOptionalTensor,
  checkSameDevice,
  checkTensor,
} from '../check.ts';
import { type DType, FLOAT_DTYPES } from '../dtype.ts';
import { badArgument } from '../errors.ts';
import { type Calls, recall } from '../recall.ts';
import {
  type ResolvedRouter,
  ROUTER_KEYS,
  type RouterOptions,
  resolveRouter,
  withoutSelectionBias,
} from '../router.ts';
import {
  changesLogits,
  hasNoiseLogits,
  mayDrop,
  nativeRouter,
  ROUTE_CALL_KEYS,
  type RouteCall,
  type RoutingRun,
  resolveRun,
} from '../router-run.ts';
import { empty, type Tensor } from '../tensor.ts';
import { disposeOnError, enqueue } from './call.ts';
import { gradient } from './gradient.ts';

/** What `Routing.dropped` says of a slot. */
export const SLOT_FATES = ['served', 'overCapacity', 'untaken', 'residual'] as const;

/** The outcome of {@link route}: what dispatch, combine and the backward pass need to know. */
export interface Routing {
  /** float32 [T, E'], what was scored: means over sequences and noise included */
  readonly logits: Tensor;
  /** int32 [T, K], in descending order of what they were chosen by, ties to the lower id; by id where experts choose */
  readonly indices: Tensor;
  /** float32 [T, K], final weights, in the order of `indices` */
  readonly weights: Tensor;
  /** int32 [E'], slots that chose each expert, dropped ones included; where experts choose, the tokens they took */
  readonly counts: Tensor;
  /**
   * int32 [T, K]: 0 served; 1 over the expert's capacity, or not chosen by it; 2 untaken (beyond top-p, or padding);
   * 3 over capacity as all of its token's, and passes the token unchanged. Present with a capacity, expert choice, top-p or mask.
   */
  readonly dropped?: Tensor;
  /** float32 [T, E'], the logits of the noise's deviation; present where `noisyTopK` was on */
  readonly noiseLogits?: Tensor;
  readonly router: ResolvedRouter;
  readonly run: RoutingRun;
}

/** Every tensor a routing holds. */
export function routingTensors(routing: Pick<Routing, 'indices' | 'weights'> & Partial<Routing>): Tensor[] {
  const { logits, indices, weights, counts, dropped, noiseLogits } = routing;
  return [logits, indices, weights, counts, dropped, noiseLogits].filter(tensor => tensor !== undefined);
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
  /** [E', H], of x's dtype or float32: with `noisyTopK` noise */
  noiseWeight?: Tensor;
  /** [r, H], with `loraB` [E', r], each of x's dtype or float32: logits += loraScale · (x · loraAᵀ) · loraBᵀ (arXiv 2106.09685) */
  loraA?: Tensor;
  loraB?: Tensor;
  /** Default 1. */
  loraScale?: number;
}

export interface RouteArgs extends RouterOptions, RouteCall, Partial<RouterTensors> {
  /** [T, H] float32, bfloat16 or float16, with `weight`; or give `logits` instead. */
  x?: Tensor;
  /** float32 [T, E'], instead of `x`, `weight` and `bias` */
  logits?: Tensor;
  /** float32 [T, E'], beside `logits`, for `noisyTopK` noise */
  noiseLogits?: Tensor;
}

/** What of a router's parameters its products with x read. */
const MATRICES = ['weight', 'bias', 'noiseWeight', 'loraA', 'loraB'] as const;
export const ROUTER_TENSORS = [...MATRICES, 'selectionBias', 'expertScale', 'loraScale'] as const;

/**
 * Chooses K experts for each token and weighs them ({@link RouterOptions} says how).
 *
 * A NaN logit ranks below every number; chosen indices are always K distinct experts.
 * @returns logits [T, E'], indices [T, K], weights [T, K], counts [E'], and where some slots may not be served dropped [T, K];
 *   `logits` is the given tensor where one was given and nothing changes it
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_SHAPE, ERR_DTYPE, ERR_DEVICE_MISMATCH, ERR_DISPOSED, ERR_DETACHED; ERR_INDEX_RANGE
 *   at the next wait if given indices name an expert that does not exist
 */
export function route(args: RouteArgs): Routing {
  return recall(ROUTES, args, routeAnew);
}

const ROUTES: Calls = [];

function routeAnew(args: RouteArgs): Routing {
  const keys = ['x', 'logits', 'noiseLogits', ...ROUTER_TENSORS, ...ROUTE_CALL_KEYS, ...ROUTER_KEYS];
  checkKeys('args', args, keys);
  const given = args.indices !== undefined;
  return routeBy(args, experts => resolveRouter('router', routerOptions(args), experts, given));
}

/** {@link route} as a router for so many experts says, instead of the options among the arguments. */
export function routeBy(args: RouteArgs, routerFor: (experts: number) => ResolvedRouter): Routing {
  const { x, logits: given, noiseLogits: givenNoise, indices: givenIndices, mask } = args;
  const { tokens, experts } = checkSource(args);
  const router = routerFor(experts);
  const run = resolveRun(router, args, { tokens, experts });
  const loraScale = checkFinite('loraScale', args.loraScale ?? 1);
  const { selectionBias, expertScale } = checkVectors(args, router, experts);
  const slots = [tokens, router.topK];
  checkOptionalTensor('indices', givenIndices, { dtype: 'int32', shape: slots });
  checkNoise(args, router, run);
  const matrices = Object.fromEntries(MATRICES.map(name => [name, args[name]]));
  const extra = { selectionBias, expertScale, logits: given, noiseLogits: givenNoise, indices: givenIndices };
  checkSameDevice({ x, ...matrices, ...extra, mask });
  const { device } = x ?? given!;
  return disposeOnError(own => {
    const changed = changesLogits(router, run);
    const logits = given && !changed ? given : own(empty([tokens, experts], { device }));
    const noisy = hasNoiseLogits(router, run);
    const averaged = router.level === 'sequence';
    const noiseLogits = noisy
      ? givenNoise && !averaged
        ? givenNoise
        : own(empty([tokens, experts], { device }))
      : undefined;
    const indices = own(empty(slots, { dtype: 'int32', device }));
    const weights = own(empty(slots, { device }));
    const counts = own(empty([experts], { dtype: 'int32', device }));
    const dropped = mayDrop(router, run) ? own(empty(slots, { dtype: 'int32', device })) : undefined;
    const givenLogits = changed ? given : undefined;
    const givenNoiseLogits = noisy && averaged ? givenNoise : undefined;
    enqueue(
      'route',
      { x, loraScale, selectionBias, expertScale, mask, givenLogits, givenNoiseLogits, givenIndices },
      matrices,
      { logits, noiseLogits, indices, weights, counts, dropped },
      nativeRouter(router, run),
    );
    const optional = { ...(dropped && { dropped }), ...(noiseLogits && { noiseLogits }) };
    return { logits, indices, weights, counts, ...optional, router, run };
  });
}

/** The options among the arguments of {@link route}. */
export function routerOptions(args: RouterOptions): RouterOptions {
  return Object.fromEntries(ROUTER_KEYS.filter(key => key in args).map(key => [key, args[key]]));
}

/** Either x with the router's matrices, or logits. */
function checkSource(args: RouteArgs): { tokens: number; experts: number } {
  const { x, logits, noiseLogits } = args;
  if ((logits === undefined) === (x === undefined)) {
    const got = logits ? 'both' : 'neither';
    throw badArgument('ERR_INVALID_ARGUMENT', 'args', 'either x and weight, or logits', got);
  }
  if (x) {
    if (noiseLogits) {
      throw badArgument('ERR_INVALID_ARGUMENT', 'noiseLogits', 'nothing beside x', 'a value');
    }
    return checkMatrices(x, args);
  }
  const { shape } = checkTensor('logits', logits, { dtype: 'float32', shape: [null, null] });
  checkOptionalTensor('noiseLogits', noiseLogits, { dtype: 'float32', shape });
  for (const name of [...MATRICES, 'loraScale'] as const) {
    if (args[name] !== undefined)
      throw badArgument('ERR_INVALID_ARGUMENT', name, 'nothing beside logits', 'a value');
  }
  return { tokens: shape[0]!, experts: shape[1]! };
}

/** The router's matrices against x and each other. */
function checkMatrices(
  x: Tensor,
  { weight, bias, noiseWeight, loraA, loraB }: Partial<RouterTensors>,
): { tokens: number; experts: number } {
  checkTensor('x', x, { dtype: FLOAT_DTYPES, shape: [null, null] });
  const [tokens, hidden] = x.shape as [number, number];
  const dtype = [x.dtype, 'float32'] as const;
  const checked = checkTensor('weight', weight, { dtype, shape: [null, hidden] });
  const experts = checked.shape[0]!;
  checkOptionalTensor('bias', bias, { dtype: [checked.dtype, 'float32'], shape: [experts] });
  checkOptionalTensor('noiseWeight', noiseWeight, { dtype, shape: [experts, hidden] });
  if (loraA !== undefined || loraB !== undefined) {
    const rank = checkTensor('loraA', loraA, { dtype, shape: [null, hidden] }).shape[0]!;
    checkTensor('loraB', loraB, { dtype, shape: [experts, rank] });
  }
  return { tokens, experts };
}

/** What chooses and what multiplies the weights. */
function checkVectors(
  { selectionBias, expertScale }: RouteArgs,
  router: ResolvedRouter,
  experts: number,
): Pick<RouterTensors, 'selectionBias' | 'expertScale'> {
  checkOptionalTensor('selectionBias', selectionBias, { dtype: 'float32', shape: [experts] });
  const excluded = withoutSelectionBias(router);
  if (selectionBias && excluded) {
    throw badArgument('ERR_INVALID_ARGUMENT', 'selectionBias', `nothing with ${excluded}`, 'a tensor');
  }
  const scaled = [experts - router.identityExperts];
  checkOptionalTensor('expertScale', expertScale, { dtype: FLOAT_DTYPES, shape: scaled });
  return { selectionBias, expertScale };
}

/** What the noise is made of. */
function checkNoise(
  { x, noiseWeight, noiseLogits }: RouteArgs,
  { noise }: ResolvedRouter,
  run: RoutingRun,
): void {
  for (const [name, value] of Object.entries({ noiseWeight, noiseLogits })) {
    if (value === undefined || noise?.kind === 'noisyTopK') continue;
    const got = `noise.kind: ${noise?.kind ?? 'none'}`;
    throw badArgument('ERR_INVALID_ARGUMENT', name, 'noise.kind: noisyTopK beside it', got);
  }
  if (run.noiseStrength === 0) return;
  if (noise!.kind === 'jitter' && !x) {
    throw badArgument('ERR_INVALID_ARGUMENT', 'x', 'the tokens that jitter works on', 'undefined');
  }
  if (noise!.kind !== 'noisyTopK' || noiseWeight || noiseLogits) return;
  const [name, expected] = x
    ? ['noiseWeight', 'a tensor for noisyTopK noise']
    : ['noiseLogits', 'a tensor for noisyTopK noise'];
  throw badArgument('ERR_INVALID_ARGUMENT', name!, expected!, 'undefined');
}

/** Parameters of a router that have a gradient. */
export const ROUTER_GRADIENTS = ['weight', 'bias', 'expertScale', 'noiseWeight', 'loraA', 'loraB'] as const;
type RouterGradientName = (typeof ROUTER_GRADIENTS)[number];

export interface RouteBackwardArgs extends Partial<Pick<RouterTensors, RouterGradientName | 'loraScale'>> {
  routing: Routing;
  /** float32 [T, K]: gradient of `routing.weights` */
  dWeights?: Tensor;
  /** float32 [T, E']: a further gradient of `routing.logits`, an auxiliary loss's say, added to the result */
  dLogits?: Tensor;
  /** float32 [T, E']: a further gradient of `routing.noiseLogits`, the load loss's */
  dNoiseLogits?: Tensor;
  /** [T, H], as given to {@link route}; asks for the gradients of the matrices */
  x?: Tensor;
  /** [E', H], as given to {@link route}; asks for `dx` */
  weight?: Tensor;
  /** The bias given to {@link route}; asks for `dBias` */
  bias?: Tensor;
  /** The expert scale given to {@link route}, needed where one was; asks for `dExpertScale` */
  expertScale?: Tensor;
  /** Gradients are added to these instead of being written to new tensors; float32 or the parameter's dtype. */
  accumulateInto?: { dx?: Tensor } & { [name in RouterGradientName]?: Tensor };
}

export interface RouteGradients {
  /** float32 [T, E']: of the logits before mean and noise: x · weightᵀ, or those given */
  readonly dLogits: Tensor;
  /** float32 [T, E']: of the noise logits before the mean; where the routing has noise logits */
  readonly dNoiseLogits?: Tensor;
  /** [T, H], x's dtype; when `weight` was given */
  readonly dx?: Tensor;
  /** [E', H]; when `x` was given and no low-rank pair */
  readonly dWeight?: Tensor;
  /** [E']; when `bias` was given and no low-rank pair */
  readonly dBias?: Tensor;
  /** [E]; when `expertScale` was given */
  readonly dExpertScale?: Tensor;
  /** [E', H]; when `x` and `noiseWeight` were given; zeros where the noise was off */
  readonly dNoiseWeight?: Tensor;
  /** [r, H] and [E', r]; when `x` and the pair were given: weight and bias are frozen then */
  readonly dLoraA?: Tensor;
  readonly dLoraB?: Tensor;
}

/**
 * The gradient of {@link route}: through scales, normalisation, score, noise and means to the logits, then
 * dx = dLogits · weight, dWeight = dLogitsᵀ · x, dBias = Σ_t dLogits. The choice of experts itself is not differentiated, so
 * neither is the selection bias; nothing flows through a slot that is not served.
 * @throws MoeError as {@link route}
 */
export function routeBackward(args: RouteBackwardArgs): RouteGradients {
  return recall(ROUTE_BACKWARDS, args, routeBackwardAnew);
}

const ROUTE_BACKWARDS: Calls = [];

function routeBackwardAnew(args: RouteBackwardArgs): RouteGradients {
  const keys = ['routing', 'dWeights', 'dLogits', 'dNoiseLogits', 'x', 'loraScale', 'accumulateInto'];
  checkKeys('args', args, [...keys, ...ROUTER_GRADIENTS]);
  const { routing, accumulateInto: into = {} } = args;
  checkKeys('accumulateInto', into, ['dx', ...ROUTER_GRADIENTS]);
  const { logits, indices, dropped, noiseLogits, router, run } = checkRouting('routing', routing);
  const [tokens, experts] = logits.shape as [number, number];
  const slots = { dtype: 'float32', shape: [tokens, router.topK] } as const;
  const likeLogits = { dtype: 'float32', shape: [tokens, experts] } as const;
  const dWeights = checkOptionalTensor('dWeights', args.dWeights, slots);
  const extra = checkOptionalTensor('dLogits', args.dLogits, likeLogits);
  const extraNoise = checkNoiseGradient(routing, args.dNoiseLogits);
  const x = checkOptionalTensor('x', args.x, { dtype: FLOAT_DTYPES, shape: [tokens, null] });
  const parameters = checkParameters(args, experts - router.identityExperts, experts);
  const loraScale = checkFinite('loraScale', args.loraScale ?? 1);
  const { mask } = run;
  checkSameDevice({ logits, dWeights, dLogits: extra, dNoiseLogits: extraNoise, x, mask, ...parameters });
  const { device } = logits;
  return disposeOnError(own => {
    const dLogits = own(empty([tokens, experts], { device }));
    const dNoiseLogits = noiseLogits && own(empty([tokens, experts], { device }));
    const { weight } = parameters;
    const hidden = x?.shape[1] ?? weight?.shape[1] ?? 0;
    const dxDType = x?.dtype ?? into.dx?.dtype ?? weight?.dtype ?? 'float32';
    const dxSpec = weight && { shape: [tokens, hidden], dtype: dxDType };
    const gradients = { dx: gradient(own, 'accumulateInto.dx', dxSpec, into.dx, device) } as Record<
      string,
      Tensor
    >;
    const flags: Record<string, boolean> = { accumulateDx: into.dx !== undefined };
    for (const name of ROUTER_GRADIENTS) {
      const spec = gradientSpec(name, x, parameters, experts);
      const target = gradient(own, `accumulateInto.${name}`, spec, into[name], device);
      if (!target) continue;
      const argument = `D${name[0]!.toUpperCase()}${name.slice(1)}`;
      flags[`accumulate${argument}`] = into[name] !== undefined;
      gradients[`d${argument.slice(1)}`] = target;
    }
    checkSameDevice({ logits, ...gradients });
    // Without noise nothing depends on its weight.
    const noise = noiseLogits ? {} : { noiseWeight: undefined, dNoiseWeight: undefined };
    enqueue(
      'routeBackward',
      { logits, indices, noiseLogits, dropped, mask, dWeights, extraDLogits: extra },
      { extraDNoiseLogits: extraNoise, x, loraScale, dLogits, dNoiseLogits },
      parameters,
      gradients,
      flags,
      nativeRouter(router, run),
      noise,
    );
    if (!noiseLogits && gradients.dNoiseWeight && !into.noiseWeight) {
      enqueue('fill', { out: gradients.dNoiseWeight, value: 0 });
    }
    return { dLogits, ...(dNoiseLogits && { dNoiseLogits }), ...gradients };
  });
}

/** A gradient of noise logits, where there are some. */
export function checkNoiseGradient(
  { logits, noiseLogits }: Routing,
  dNoiseLogits: Tensor | undefined,
): Tensor | undefined {
  if (dNoiseLogits && !noiseLogits) {
    const expected = 'nothing for a routing without noise logits';
    throw badArgument('ERR_INVALID_ARGUMENT', 'dNoiseLogits', expected, 'a tensor');
  }
  return checkOptionalTensor('dNoiseLogits', dNoiseLogits, { dtype: 'float32', shape: logits.shape });
}

type RouterParameterTensors = { [name in RouterGradientName]?: Tensor };

function checkParameters(args: RouteBackwardArgs, computed: number, experts: number): RouterParameterTensors {
  const hidden = args.x?.shape[1] ?? null;
  const rank = args.loraA?.shape[0] ?? null;
  const shapes: Record<RouterGradientName, (number | null)[]> = {
    weight: [experts, hidden],
    bias: [experts],
    expertScale: [computed],
    noiseWeight: [experts, hidden],
    loraA: [null, hidden],
    loraB: [experts, rank],
  };
  const checked: RouterParameterTensors = {};
  for (const name of ROUTER_GRADIENTS) {
    checked[name] = checkOptionalTensor(name, args[name], { dtype: FLOAT_DTYPES, shape: shapes[name] });
  }
  if ((checked.loraA === undefined) !== (checked.loraB === undefined)) {
    const missing = checked.loraA ? 'loraB' : 'loraA';
    throw badArgument('ERR_INVALID_ARGUMENT', missing, 'a tensor beside the other of the pair', 'undefined');
  }
  return checked;
}

/** The gradient that is computed for a parameter, if any: matrices need x, and a low-rank pair freezes what it is added to. */
function gradientSpec(
  name: RouterGradientName,
  x: Tensor | undefined,
  parameters: RouterParameterTensors,
  experts: number,
): { shape: readonly number[]; dtype: DType } | undefined {
  const parameter = parameters[name];
  if (name === 'expertScale') return parameter;
  if (name === 'weight' || name === 'bias') {
    if (parameters.loraA) return undefined;
    if (name === 'bias') return parameter;
    return x && { shape: [experts, x.shape[1]!], dtype: parameter?.dtype ?? x.dtype };
  }
  return x && parameter;
}

/** A routing whose tensors are alive and still fit together. */
export function checkRouting(name: string, routing: Routing): Routing {
  const tensors = ['logits', 'indices', 'weights', 'counts', 'dropped', 'noiseLogits'];
  checkKeys(name, routing, [...tensors, 'router', 'run']);
  const logits = checkTensor(`${name}.logits`, routing.logits, { dtype: 'float32', shape: [null, null] });
  const tokens = logits.shape[0]!;
  const topK = checkInteger(`${name}.router.topK`, routing.router?.topK, 1, logits.shape[1]);
  checkKeys(`${name}.run`, routing.run, [
    ...['tokensPerExpert', 'sequenceLength', 'rows', 'step', 'noiseStrength', 'mask'],
  ]);
  const slots = [tokens, topK];
  checkTensor(`${name}.indices`, routing.indices, { dtype: 'int32', shape: slots });
  checkTensor(`${name}.weights`, routing.weights, { dtype: 'float32', shape: slots });
  checkOptionalTensor(`${name}.dropped`, routing.dropped, { dtype: 'int32', shape: slots });
  checkOptionalTensor(`${name}.noiseLogits`, routing.noiseLogits, { dtype: 'float32', shape: logits.shape });
  checkOptionalTensor(`${name}.run.mask`, routing.run.mask, { dtype: 'int32', shape: [tokens] });
  return routing;
}
