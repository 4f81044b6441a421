// The router as one description: which scores, which experts, which weights.

import { checkBoolean, checkFinite, checkInteger, checkKeys, checkNotNegative, checkOneOf } from './check.ts';
import { describe } from './dtype.ts';
import { badArgument } from './errors.ts';
import {
  type ExpertChoice,
  type ResolvedCapacity,
  type RouterCapacity,
  resolveCapacity,
  resolveExpertChoice,
} from './router-capacity.ts';
import { type ResolvedNoise, type RouterNoise, resolveNoise } from './router-noise.ts';

export const SCORES = ['softmax', 'sigmoid', 'sqrtsoftplus', 'identity', 'sparsemixer'] as const;
export const SOFTMAX_OVER = ['all', 'selected'] as const;
export const GROUP_SCORES = ['max', 'top2sum'] as const;
export const LEVELS = ['token', 'sequence'] as const;

/** Group-limited routing: only members of the best groups can be chosen (DeepSeek-V2, arXiv 2405.04434). */
export interface RouterGroups {
  /** Equal groups of consecutive experts; divides the number of experts. */
  count: number;
  /** Groups kept. Their members must number at least K. */
  top: number;
  /** A group's score: its best member (`max`, DeepSeek-V2) or its two best added (`top2sum`, DeepSeek-V3). Default `max`. */
  score?: (typeof GROUP_SCORES)[number];
  /** What members of the other groups' scores become before the top-k: 0, or −∞ (default). */
  maskValue?: number;
}

/**
 * How logits z [T, E'] become K experts per token and their weights. In this order: mean over the sequence, noise; score s;
 * choice by s + selection bias, within the best groups, ties to the lower id; top-p; weights from s alone: normalise, scale,
 * expert scale; capacity. Everything is computed in float32.
 *
 * All experts with softmax weights, the soft mixture of Jacobs & Hinton 1991, is `topK: E`.
 */
export interface RouterOptions {
  /** K, experts per token, 1 ≤ K ≤ E'. Given unless experts choose (`expertChoice`). */
  topK?: number;
  /**
   * - `softmax` (default; Shazeer 2017, Switch, Mixtral)
   * - `sigmoid` (DeepSeek-V3, Llama 4)
   * - `sqrtsoftplus` √(ln(1 + eᶻ))
   * - `identity`, the logit itself (Mixture-of-Depths, arXiv 2404.02258)
   * - `sparsemixer` (Phi-3.5-MoE, arXiv 2409.12136): K = 2, chosen one after the other; each weight is the winner's softmax
   *   probability among the remaining logits z with (m − z) / max(|z|, m) ≤ 2·jitterEps, m the largest of them
   */
  score?: (typeof SCORES)[number];
  /** `all` (default): softmax over E', then top-k (Switch). `selected`: top-k of the logits, softmax over those K (GPT-OSS, Granite). */
  softmaxOver?: (typeof SOFTMAX_OVER)[number];
  /** With `sparsemixer`. Default 0.01. */
  jitterEps?: number;
  groups?: RouterGroups;
  /** `sequence`: the logits of a token are the mean of its sequence's, so that a sequence has one choice. Default `token`. */
  level?: (typeof LEVELS)[number];
  /**
   * p in (0, 1]: of the K experts, in the order of the choice, only the first whose probabilities add up to p are taken, at
   * least one (arXiv 2403.07652). Normalisation is over these. With `softmax` over all.
   */
  topP?: number;
  /** Experts choose tokens instead. Then K = E', and slot k of a token is expert k, with weight 0 where it did not choose the token. */
  expertChoice?: ExpertChoice;
  /** Divide the K weights by their sum (Mixtral, DeepSeek-V3). Default false. */
  normalize?: boolean;
  /** Added to that sum (DeepSeek-V3: 1e-20). Default 0. */
  normalizeEps?: number;
  /** Lower bound of that sum. Default 0; with `identity` scores, which may add up to anything, give one above 0. */
  normalizeMin?: number;
  /** Multiplies the weights (DeepSeek `routed_scaling_factor`). Default 1. */
  scale?: number;
  capacity?: RouterCapacity;
  /** On where the call says which `step` it is, off otherwise. */
  noise?: RouterNoise;
  /** So many of the E' experts, the last ids, return their input unchanged (zero-computation experts). Default 0. */
  identityExperts?: number;
}

/** {@link RouterOptions} with every default filled in. */
export type ResolvedRouter = Readonly<
  Required<Omit<RouterOptions, 'groups' | 'topP' | 'expertChoice' | 'capacity' | 'noise'>> & {
    /** What a token has slots for: its K best experts, all of them by id, or given ones. */
    choice: 'best' | 'all' | 'given';
    groups: Readonly<Required<RouterGroups>> | undefined;
    topP: number | undefined;
    /** Of a capacity or of expert choice. */
    capacity: ResolvedCapacity | undefined;
    noise: ResolvedNoise | undefined;
  }
>;

export const ROUTER_KEYS = [
  'topK',
  'score',
  'softmaxOver',
  'jitterEps',
  'groups',
  'level',
  'topP',
  'expertChoice',
  'normalize',
  'normalizeEps',
  'normalizeMin',
  'scale',
  'capacity',
  'noise',
  'identityExperts',
] as const satisfies readonly (keyof RouterOptions)[];

/** Options that mean something only beside a value of another. */
const ONLY_WITH: readonly (readonly [keyof RouterOptions, keyof RouterOptions, unknown])[] = [
  ['softmaxOver', 'score', 'softmax'],
  ['jitterEps', 'score', 'sparsemixer'],
  ['topP', 'score', 'softmax'],
  ['normalizeEps', 'normalize', true],
  ['normalizeMin', 'normalize', true],
];

/** Ways to choose, and the options that have no meaning beside them. */
const EXCLUDES: readonly {
  readonly beside: string;
  readonly holds: (options: RouterOptions, given: boolean) => boolean;
  readonly keys: readonly (keyof RouterOptions)[];
}[] = [
  {
    beside: 'sparsemixer',
    holds: ({ score }) => score === 'sparsemixer',
    keys: ['groups', 'topP', 'expertChoice'],
  },
  {
    beside: 'expertChoice',
    holds: ({ expertChoice }) => expertChoice !== undefined,
    keys: ['topK', 'softmaxOver', 'groups', 'level', 'topP', 'normalize', 'capacity', 'identityExperts'],
  },
  { beside: 'topP', holds: ({ topP }) => topP !== undefined, keys: ['softmaxOver'] },
  {
    beside: 'given indices',
    holds: (_, given) => given,
    keys: ['groups', 'topP', 'expertChoice'],
  },
];
/** Values of options that say no more than leaving them out. */
const OFF: readonly unknown[] = [undefined, false, 'token', 'all'];

/**
 * Checks options against the number of experts E' (identity experts included) and each other, and fills in the defaults.
 * @param given whether the experts of each token are given, and only weighed
 * @throws MoeError ERR_INVALID_ARGUMENT for an option that is unknown, out of range or contradicts another
 */
export function resolveRouter(
  name: string,
  options: RouterOptions,
  experts: number,
  given = false,
): ResolvedRouter {
  checkKeys(name, options, ROUTER_KEYS);
  const score = checkOneOf(`${name}.score`, options.score ?? 'softmax', SCORES);
  const normalize = checkBoolean(`${name}.normalize`, options.normalize ?? false);
  checkContradictions(name, { ...options, score, normalize }, given);
  const { groups, topP, expertChoice, capacity, noise } = options;
  const topK = expertChoice ? experts : checkInteger(`${name}.topK`, options.topK, 1, experts);
  if (score === 'sparsemixer') checkSparseMixer(name, topK, given);
  return {
    topK,
    choice: given ? 'given' : expertChoice ? 'all' : 'best',
    score,
    softmaxOver: checkOneOf(`${name}.softmaxOver`, options.softmaxOver ?? 'all', SOFTMAX_OVER),
    jitterEps: checkNotNegative(`${name}.jitterEps`, options.jitterEps ?? 0.01),
    groups: groups === undefined ? undefined : resolveGroups(`${name}.groups`, groups, experts, topK),
    level: checkOneOf(`${name}.level`, options.level ?? 'token', LEVELS),
    topP: topP === undefined ? undefined : checkProbability(`${name}.topP`, topP),
    normalize,
    normalizeEps: checkNotNegative(`${name}.normalizeEps`, options.normalizeEps ?? 0),
    normalizeMin: checkNotNegative(`${name}.normalizeMin`, options.normalizeMin ?? 0),
    scale: checkFinite(`${name}.scale`, options.scale ?? 1),
    capacity:
      expertChoice !== undefined
        ? resolveExpertChoice(`${name}.expertChoice`, expertChoice)
        : capacity === undefined
          ? undefined
          : resolveCapacity(`${name}.capacity`, capacity),
    noise: noise === undefined ? undefined : resolveNoise(`${name}.noise`, noise),
    identityExperts: checkInteger(`${name}.identityExperts`, options.identityExperts ?? 0, 0, experts - 1),
  };
}

/** What leaves a selection bias nothing to choose, in words; undefined where one may be given. */
export function withoutSelectionBias({ score, choice }: ResolvedRouter): string | undefined {
  if (score === 'sparsemixer') return score;
  return choice === 'given' ? 'given indices' : choice === 'all' ? 'expertChoice' : undefined;
}

function checkContradictions(name: string, options: RouterOptions, given: boolean): void {
  for (const [key, other, value] of ONLY_WITH) {
    if (options[key] === undefined || options[other] === value) continue;
    const expected = `${other}: ${value} beside it`;
    throw badArgument('ERR_INVALID_ARGUMENT', `${name}.${key}`, expected, `${other}: ${options[other]}`);
  }
  for (const { beside, holds, keys } of EXCLUDES) {
    if (!holds(options, given)) continue;
    for (const key of keys) {
      const value = options[key];
      if (OFF.includes(value) || (key === 'identityExperts' && value === 0)) continue;
      const got = typeof value === 'object' ? key : String(value);
      throw badArgument('ERR_INVALID_ARGUMENT', `${name}.${key}`, `nothing with ${beside}`, got);
    }
  }
}

function checkProbability(name: string, value: unknown): number {
  const probability = checkFinite(name, value);
  if (probability > 0 && probability <= 1) return probability;
  throw badArgument('ERR_INVALID_ARGUMENT', name, 'a number above 0, at most 1', String(value));
}

/** It chooses by its own rule: one expert, then another. */
function checkSparseMixer(name: string, topK: number, given: boolean): void {
  if (topK !== 2) {
    throw badArgument('ERR_INVALID_ARGUMENT', `${name}.topK`, '2 with sparsemixer', String(topK));
  }
  if (given) {
    const expected = 'another score than sparsemixer with given indices';
    throw badArgument('ERR_INVALID_ARGUMENT', `${name}.score`, expected, 'sparsemixer');
  }
}

function resolveGroups(
  name: string,
  groups: RouterGroups,
  experts: number,
  topK: number,
): Required<RouterGroups> {
  checkKeys(name, groups, ['count', 'top', 'score', 'maskValue']);
  const count = checkInteger(`${name}.count`, groups.count, 1, experts);
  if (experts % count !== 0) {
    throw badArgument(
      'ERR_INVALID_ARGUMENT',
      `${name}.count`,
      `a divisor of ${experts} experts`,
      String(count),
    );
  }
  const top = checkInteger(`${name}.top`, groups.top, 1, count);
  const size = experts / count;
  if (top * size < topK) {
    const expected = `groups with at least topK = ${topK} members in all`;
    throw badArgument('ERR_INVALID_ARGUMENT', `${name}.top`, expected, `${top} of ${size}`);
  }
  const score = checkOneOf(`${name}.score`, groups.score ?? 'max', GROUP_SCORES);
  if (score === 'top2sum' && size < 2) {
    throw badArgument('ERR_INVALID_ARGUMENT', `${name}.score`, 'max for groups of one expert', score);
  }
  const maskValue = groups.maskValue ?? Number.NEGATIVE_INFINITY;
  if (maskValue !== 0 && maskValue !== Number.NEGATIVE_INFINITY) {
    throw badArgument('ERR_INVALID_ARGUMENT', `${name}.maskValue`, '0 or -Infinity', describe(maskValue));
  }
  return { count, top, score, maskValue };
}
