// The router as one description: which scores, which experts, which weights.

import { checkBoolean, checkFinite, checkInteger, checkKeys, checkOneOf } from './check.ts';
import { describe } from './dtype.ts';
import { badArgument } from './errors.ts';
import { enumIndex } from './native.ts';

export const SCORES = ['softmax', 'sigmoid', 'sqrtsoftplus', 'sparsemixer'] as const;
export const SOFTMAX_OVER = ['all', 'selected'] as const;
export const GROUP_SCORES = ['max', 'top2sum'] as const;
export const DROP_POLICIES = ['position'] as const;

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

/** At most so many rows per expert (GShard, Switch). What does not fit is dropped: it has weight 0 and contributes nothing. */
export interface RouterCapacity {
  tokensPerExpert: number;
  /** Who stays: `position`, the earlier tokens. Default `position`. */
  dropPolicy?: (typeof DROP_POLICIES)[number];
}

/**
 * How logits z [T, E'] become K experts per token and their weights. In this order: score s; choice by s + selection bias,
 * within the best groups, ties to the lower id; weights from s alone: normalise, scale, expert scale; capacity. Everything
 * is computed in float32.
 */
export interface RouterOptions {
  /** K, experts per token, 1 ≤ K ≤ E'. */
  topK: number;
  /**
   * - `softmax` (default; Shazeer 2017, Switch, Mixtral)
   * - `sigmoid` (DeepSeek-V3, Llama 4)
   * - `sqrtsoftplus` √(ln(1 + eᶻ))
   * - `sparsemixer` (Phi-3.5-MoE, arXiv 2409.12136): K = 2, chosen one after the other; each weight is the winner's softmax
   *   probability among the remaining logits z with (m − z) / max(|z|, m) ≤ 2·jitterEps, m the largest of them
   */
  score?: (typeof SCORES)[number];
  /** `all` (default): softmax over E', then top-k (Switch). `selected`: top-k of the logits, softmax over those K (GPT-OSS, Granite). */
  softmaxOver?: (typeof SOFTMAX_OVER)[number];
  /** With `sparsemixer`. Default 0.01. */
  jitterEps?: number;
  groups?: RouterGroups;
  /** Divide the K weights by their sum (Mixtral, DeepSeek-V3). Default false. */
  normalize?: boolean;
  /** Added to that sum (DeepSeek-V3: 1e-20). Default 0. */
  normalizeEps?: number;
  /** Lower bound of that sum. Default 0. */
  normalizeMin?: number;
  /** Multiplies the weights (DeepSeek `routed_scaling_factor`). Default 1. */
  scale?: number;
  capacity?: RouterCapacity;
  /** So many of the E' experts, the last ids, return their input unchanged (zero-computation experts). Default 0. */
  identityExperts?: number;
}

/** {@link RouterOptions} with every default filled in. */
export type ResolvedRouter = Readonly<
  Required<Omit<RouterOptions, 'groups' | 'capacity'>> & {
    groups: Readonly<Required<RouterGroups>> | undefined;
    capacity: Readonly<Required<RouterCapacity>> | undefined;
  }
>;

export const ROUTER_KEYS = [
  'topK',
  'score',
  'softmaxOver',
  'jitterEps',
  'groups',
  'normalize',
  'normalizeEps',
  'normalizeMin',
  'scale',
  'capacity',
  'identityExperts',
] as const;

/** Options that mean something only beside a value of another. */
const ONLY_WITH: readonly (readonly [keyof RouterOptions, keyof RouterOptions, unknown])[] = [
  ['softmaxOver', 'score', 'softmax'],
  ['jitterEps', 'score', 'sparsemixer'],
  ['normalizeEps', 'normalize', true],
  ['normalizeMin', 'normalize', true],
];

/**
 * Checks options against the number of experts E' (identity experts included) and each other, and fills in the defaults.
 * @throws MoeError ERR_INVALID_ARGUMENT for an option that is unknown, out of range or contradicts another
 */
export function resolveRouter(name: string, options: RouterOptions, experts: number): ResolvedRouter {
  checkKeys(name, options, ROUTER_KEYS);
  const score = checkOneOf(`${name}.score`, options.score ?? 'softmax', SCORES);
  const normalize = checkBoolean(`${name}.normalize`, options.normalize ?? false);
  const chosen = { score, normalize } as RouterOptions;
  for (const [key, other, value] of ONLY_WITH) {
    if (options[key] === undefined || chosen[other] === value) continue;
    const expected = `${other}: ${value} beside it`;
    throw badArgument('ERR_INVALID_ARGUMENT', `${name}.${key}`, expected, `${other}: ${chosen[other]}`);
  }
  const topK = checkInteger(`${name}.topK`, options.topK, 1, experts);
  if (score === 'sparsemixer') checkSparseMixer(name, options);
  return {
    topK,
    score,
    softmaxOver: checkOneOf(`${name}.softmaxOver`, options.softmaxOver ?? 'all', SOFTMAX_OVER),
    jitterEps: checkNotNegative(`${name}.jitterEps`, options.jitterEps ?? 0.01),
    groups:
      options.groups === undefined
        ? undefined
        : resolveGroups(`${name}.groups`, options.groups, experts, topK),
    normalize,
    normalizeEps: checkNotNegative(`${name}.normalizeEps`, options.normalizeEps ?? 0),
    normalizeMin: checkNotNegative(`${name}.normalizeMin`, options.normalizeMin ?? 0),
    scale: checkFinite(`${name}.scale`, options.scale ?? 1),
    capacity:
      options.capacity === undefined ? undefined : resolveCapacity(`${name}.capacity`, options.capacity),
    identityExperts: checkInteger(`${name}.identityExperts`, options.identityExperts ?? 0, 0, experts - 1),
  };
}

/** It chooses by its own rule: one expert, then another. */
function checkSparseMixer(name: string, options: RouterOptions): void {
  if (options.topK !== 2) {
    throw badArgument('ERR_INVALID_ARGUMENT', `${name}.topK`, '2 with sparsemixer', String(options.topK));
  }
  if (options.groups !== undefined) {
    throw badArgument('ERR_INVALID_ARGUMENT', `${name}.groups`, 'nothing with sparsemixer', 'groups');
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

function resolveCapacity(name: string, capacity: RouterCapacity): Required<RouterCapacity> {
  checkKeys(name, capacity, ['tokensPerExpert', 'dropPolicy']);
  return {
    tokensPerExpert: checkInteger(`${name}.tokensPerExpert`, capacity.tokensPerExpert, 1),
    dropPolicy: checkOneOf(`${name}.dropPolicy`, capacity.dropPolicy ?? 'position', DROP_POLICIES),
  };
}

function checkNotNegative(name: string, value: unknown): number {
  const number = checkFinite(name, value);
  if (number < 0) throw badArgument('ERR_INVALID_ARGUMENT', name, 'a number ≥ 0', String(number));
  return number;
}

/** The description as the addon reads it; 0 groups and 0 capacity mean none. */
export function nativeRouter(router: ResolvedRouter): Record<string, number | boolean> {
  const { groups, capacity } = router;
  return {
    topK: router.topK,
    score: enumIndex('score', router.score),
    softmaxOver: enumIndex('softmaxOver', router.softmaxOver),
    jitterEps: router.jitterEps,
    groupCount: groups?.count ?? 0,
    groupTop: groups?.top ?? 0,
    groupScore: enumIndex('groupScore', groups?.score ?? 'max'),
    groupMaskValue: groups?.maskValue ?? 0,
    normalize: router.normalize,
    normalizeEps: router.normalizeEps,
    normalizeMin: router.normalizeMin,
    scale: router.scale,
    capacity: capacity?.tokensPerExpert ?? 0,
    identityExperts: router.identityExperts,
  };
}
