// What one call adds to a router's options: the sizes and places that its capacity, its sequences and its noise depend on.

import { checkInteger, checkOptionalTensor, checkRowCount } from './check.ts';
import { badArgument } from './errors.ts';
import { enumIndex } from './native.ts';
import type { ResolvedRouter } from './router.ts';
import { rowsPerExpert } from './router-capacity.ts';
import { noiseStrength } from './router-noise.ts';
import type { Tensor } from './tensor.ts';

/** Arguments of a call beside the router's options. */
export interface RouteCall {
  /** int32 [T, K]: the experts of each token; the router only weighs them (hash layers, Roller et al. 2021). */
  indices?: Tensor;
  /** int32 [T]: tokens that are 0 here (padding) are not routed: no weight, no row, no part in counts, capacity or means. */
  mask?: Tensor;
  /** Tokens of a sequence, a divisor of T; where the router works `per` or at the `level` of sequences. */
  sequenceLength?: number;
  /** The training step: turns the router's noise on and says which numbers to draw. */
  step?: number;
}

export const ROUTE_CALL_KEYS = [
  'indices',
  'mask',
  'sequenceLength',
  'step',
] as const satisfies readonly (keyof RouteCall)[];

/** {@link RouteCall} together with what follows from it. */
export interface RoutingRun {
  /** C, rows an expert takes at most in each run; undefined where there is no such bound. */
  readonly tokensPerExpert: number | undefined;
  /** 0 where sequences play no part. */
  readonly sequenceLength: number;
  /** R, the most rows that this routing can need. */
  readonly rows: number;
  readonly step: number | undefined;
  /** 0 where there is no noise. */
  readonly noiseStrength: number;
  readonly mask: Tensor | undefined;
}

/**
 * Checks a call's arguments against the router's options and the number of tokens.
 * @param experts E', identity experts included
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_SHAPE, ERR_DTYPE
 */
export function resolveRun(
  router: ResolvedRouter,
  call: RouteCall,
  { tokens, experts }: { tokens: number; experts: number },
): RoutingRun {
  const { capacity, noise, topK } = router;
  const slots = checkRowCount(tokens, topK);
  const mask = checkOptionalTensor('mask', call.mask, { dtype: 'int32', shape: [tokens] });
  const sequenceLength = resolveSequenceLength(router, call.sequenceLength, tokens);
  const step =
    call.step === undefined ? undefined : checkInteger('step', call.step, 0, Number.MAX_SAFE_INTEGER);
  const runLength = capacity?.per === 'sequence' ? sequenceLength : tokens;
  const runs = tokens === 0 ? 0 : tokens / runLength;
  const computed = experts - router.identityExperts;
  // Experts that choose divide the tokens among themselves, not the tokens' slots.
  const shared = router.choice === 'all' ? runLength : runLength * topK;
  const tokensPerExpert = capacity && rowsPerExpert(capacity, shared, computed);
  const bound = tokensPerExpert === undefined ? slots : runs * computed * tokensPerExpert;
  return {
    ...{ tokensPerExpert, sequenceLength, step, mask },
    rows: Math.min(slots, bound),
    noiseStrength: noise && step !== undefined ? noiseStrength(noise, step) : 0,
  };
}

function resolveSequenceLength(router: ResolvedRouter, given: unknown, tokens: number): number {
  if (router.level !== 'sequence' && router.capacity?.per !== 'sequence') {
    if (given === undefined) return 0;
    const expected = 'level: sequence or per: sequence beside it';
    throw badArgument('ERR_INVALID_ARGUMENT', 'sequenceLength', expected, String(given));
  }
  const length = checkInteger('sequenceLength', given, 1);
  if (tokens % length === 0) return length;
  const expected = `a divisor of the ${tokens} tokens`;
  throw badArgument('ERR_INVALID_ARGUMENT', 'sequenceLength', expected, String(length));
}

/** Whether the scored logits are other numbers than the products or the given ones. */
export function changesLogits({ level, noise }: ResolvedRouter, run: RoutingRun): boolean {
  return level === 'sequence' || (run.noiseStrength > 0 && noise!.kind !== 'jitter');
}

/** Whether noise is drawn whose deviation is learnt. */
export function hasNoiseLogits({ noise }: ResolvedRouter, run: RoutingRun): boolean {
  return run.noiseStrength > 0 && noise!.kind === 'noisyTopK';
}

/** Whether some slots may not be served, so that the routing says which. */
export function mayDrop({ capacity, topP }: ResolvedRouter, run: RoutingRun): boolean {
  return capacity !== undefined || topP !== undefined || run.mask !== undefined;
}

/** The description as the addon reads it; 0 groups, capacity rows and top-p mean none. */
export function nativeRouter(router: ResolvedRouter, run: RoutingRun): Record<string, number | boolean> {
  const { groups, capacity, noise } = router;
  return {
    topK: router.topK,
    choice: enumIndex('choice', router.choice),
    score: enumIndex('score', router.score),
    softmaxOver: enumIndex('softmaxOver', router.softmaxOver),
    jitterEps: router.jitterEps,
    groupCount: groups?.count ?? 0,
    groupTop: groups?.top ?? 0,
    groupScore: enumIndex('groupScore', groups?.score ?? 'max'),
    groupMaskValue: groups?.maskValue ?? 0,
    topP: router.topP ?? 0,
    normalize: router.normalize,
    normalizeEps: router.normalizeEps,
    normalizeMin: router.normalizeMin,
    scale: router.scale,
    identityExperts: router.identityExperts,
    sequenceLength: run.sequenceLength,
    bySequence: router.level === 'sequence',
    noiseKind: enumIndex('noiseKind', run.noiseStrength > 0 ? noise!.kind : 'none'),
    noiseStrength: run.noiseStrength,
    noiseSeed: noise?.seed ?? 0,
    noiseStep: run.step ?? 0,
    capacityRows: run.tokensPerExpert ?? 0,
    capacityBySequence: capacity?.per === 'sequence',
    dropPolicy: enumIndex('dropPolicy', capacity?.dropPolicy ?? 'position'),
    residual: capacity?.dropped === 'residual',
  };
}
