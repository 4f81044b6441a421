// The router as one description: which scores, which experts, which weights.

import { checkBoolean, checkFinite, checkInteger, checkKeys, checkOneOf } from './check.ts';
import { badArgument } from './errors.ts';
import { enumIndex } from './native.ts';

export const SCORES = ['softmax', 'sigmoid'] as const;
export const SOFTMAX_OVER = ['all', 'selected'] as const;

/**
 * How logits z [T, E] become K experts per token and their weights. In this order: score s, the K largest s (ties to the
 * lower id), normalise, scale. Everything is computed in float32.
 */
export interface RouterOptions {
  /** K, experts per token, 1 ≤ K ≤ E. */
  topK: number;
  /** `softmax` (default; Shazeer 2017, Switch, Mixtral) or `sigmoid` (DeepSeek-V3, Llama 4). */
  score?: (typeof SCORES)[number];
  /** `all` (default): softmax over E, then top-k (Switch). `selected`: top-k of the logits, softmax over those K (GPT-OSS, Granite). */
  softmaxOver?: (typeof SOFTMAX_OVER)[number];
  /** Divide the K weights by their sum (Mixtral, DeepSeek-V3). Default false. */
  normalize?: boolean;
  /** Added to that sum (DeepSeek-V3: 1e-20). Default 0. */
  normalizeEps?: number;
  /** Lower bound of that sum. Default 0. */
  normalizeMin?: number;
  /** Multiplies the weights (DeepSeek `routed_scaling_factor`). Default 1. */
  scale?: number;
}

/** {@link RouterOptions} with every default filled in. */
export type ResolvedRouter = Readonly<Required<RouterOptions>>;

export const ROUTER_KEYS = [
  'topK',
  'score',
  'softmaxOver',
  'normalize',
  'normalizeEps',
  'normalizeMin',
  'scale',
] as const;

/** Checks options against the number of experts and fills in the defaults. */
export function resolveRouter(name: string, options: RouterOptions, experts: number): ResolvedRouter {
  checkKeys(name, options, ROUTER_KEYS);
  const score = checkOneOf(`${name}.score`, options.score ?? 'softmax', SCORES);
  const normalize = checkBoolean(`${name}.normalize`, options.normalize ?? false);
  if (options.softmaxOver !== undefined && score !== 'softmax') {
    throw badArgument('ERR_INVALID_ARGUMENT', `${name}.softmaxOver`, 'score softmax beside it', score);
  }
  for (const key of ['normalizeEps', 'normalizeMin'] as const) {
    if (options[key] !== undefined && !normalize) {
      throw badArgument(
        'ERR_INVALID_ARGUMENT',
        `${name}.${key}`,
        'normalize: true beside it',
        'normalize: false',
      );
    }
  }
  return {
    topK: checkInteger(`${name}.topK`, options.topK, 1, experts),
    score,
    softmaxOver: checkOneOf(`${name}.softmaxOver`, options.softmaxOver ?? 'all', SOFTMAX_OVER),
    normalize,
    normalizeEps: checkNotNegative(`${name}.normalizeEps`, options.normalizeEps ?? 0),
    normalizeMin: checkNotNegative(`${name}.normalizeMin`, options.normalizeMin ?? 0),
    scale: checkFinite(`${name}.scale`, options.scale ?? 1),
  };
}

function checkNotNegative(name: string, value: unknown): number {
  const number = checkFinite(name, value);
  if (number < 0) throw badArgument('ERR_INVALID_ARGUMENT', name, 'a number ≥ 0', String(number));
  return number;
}

/** The description as the addon reads it. */
export function nativeRouter(router: ResolvedRouter): Record<string, number | boolean> {
  return {
    topK: router.topK,
    score: enumIndex('score', router.score),
    softmaxOver: enumIndex('softmaxOver', router.softmaxOver),
    normalize: router.normalize,
    normalizeEps: router.normalizeEps,
    normalizeMin: router.normalizeMin,
    scale: router.scale,
  };
}
