// Losses on the router in float64, from their definitions, with their gradients: the choice of experts is fixed.

import { SERVED, UNTAKEN } from './capacity.ts';
import { chooseLargest } from './choice.ts';
import { logitNoise, noiseOf } from './logits.ts';
import { normalDensity, normalShare } from './noise.ts';
import { referenceRoute, referenceRouteBackward } from './route.ts';
import { type ReferenceRouter, runsOf, slotsPerToken } from './router.ts';
import { logistic, scoreShares, softmax, softplus } from './score.ts';

/** A routing as the losses see it. */
export interface RoutedLogits {
  router: ReferenceRouter;
  /** E' */
  experts: number;
  /** [T, E'], as they were scored */
  logits: Float64Array;
  /** [T, E'], with noisy top-k */
  noiseLogits?: Float64Array;
  /** [T, K] */
  choice: { indices: ArrayLike<number>; dropped: ArrayLike<number> };
}

export interface LossOptions {
  loadBalance?: number;
  z?: number;
  importance?: number;
  load?: number;
  /** [T]: tokens that are 0 here count for nothing. Default: the routing's own. */
  mask?: ArrayLike<number>;
  /** Tokens that are balanced together. Default: all. */
  sequenceLength?: number;
}

export interface ReferenceLosses {
  /** Load balance, z, importance, load. */
  losses: Float64Array;
  entropy: number;
  /** [T, E'], of the scored logits */
  dLogits: Float64Array;
  /** [T, E'], with noisy top-k: of the noise logits, where the scored ones are held fixed */
  dNoiseLogits?: Float64Array;
}

/** A loss without its coefficient. */
interface Loss {
  value: number;
  dLogits: Float64Array;
  dNoiseLogits?: Float64Array;
}

export function referenceLosses(routed: RoutedLogits, options: LossOptions): ReferenceLosses {
  const { loadBalance = 0, z = 0, importance = 0, load = 0 } = options;
  const scope = { ...routed, counted: countedTokens(routed, options.mask) };
  const parts: [number, Loss][] = [
    [loadBalance, balanceLoss(scope, options.sequenceLength)],
    [z, squaredLogSums(scope)],
    [importance, importanceLoss(scope)],
    [load, load === 0 ? nothing(scope) : loadLoss(scope)],
  ];
  const total = (gradient: (loss: Loss) => Float64Array | undefined) =>
    routed.logits.map((_, i) =>
      parts.reduce((sum, [coefficient, loss]) => sum + coefficient * (gradient(loss)?.[i] ?? 0), 0),
    );
  return {
    losses: Float64Array.from(parts, ([coefficient, { value }]) => coefficient * value),
    entropy: meanEntropy(scope),
    dLogits: total(loss => loss.dLogits),
    ...(routed.noiseLogits && { dNoiseLogits: total(loss => loss.dNoiseLogits) }),
  };
}

interface Scope extends RoutedLogits {
  /** The tokens that count, ascending. */
  counted: number[];
}

function countedTokens({ router, logits, experts }: RoutedLogits, mask = router.mask): number[] {
  return Array.from({ length: logits.length / experts }, (_, t) => t).filter(t => mask?.[t] !== 0);
}

const rowOf = ({ experts }: Scope, values: Float64Array, token: number) =>
  values.subarray(token * experts, (token + 1) * experts);

const nothing = ({ logits }: Scope): Loss => ({ value: 0, dLogits: new Float64Array(logits.length) });

/** The slots of a token that were taken, with their experts. */
function takenSlots({ choice, router, experts }: Scope, token: number): { slot: number; expert: number }[] {
  const K = slotsPerToken(router, experts);
  return Array.from({ length: K }, (_, k) => token * K + k)
    .filter(slot => choice.dropped[slot] !== UNTAKEN)
    .map(slot => ({ slot, expert: choice.indices[slot]! }));
}

/**
 * E'·Σ_e f_e·P_e, the mean over runs of tokens: f_e the share of the taken slots that chose e, P_e the mean of e's shares in
 * the tokens' scores (Switch, arXiv 2101.03961).
 */
function balanceLoss(scope: Scope, sequenceLength?: number): Loss {
  const { logits, experts, router } = scope;
  const loss = nothing(scope);
  const tokens = logits.length / experts;
  const runs = [...runsOf(tokens, sequenceLength ?? tokens)];
  for (const { begin, end } of runs) {
    const own = scope.counted.filter(t => t >= begin && t < end);
    const chosen = own.flatMap(t => takenSlots(scope, t));
    const f = new Float64Array(experts);
    for (const { expert } of chosen) f[expert]! += 1 / chosen.length;
    for (const t of own) {
      const { values, slopes } = scoreShares(router, rowOf(scope, logits, t));
      const inner = values.reduce((sum, p, e) => sum + p * f[e]!, 0);
      const factor = experts / (own.length * runs.length);
      loss.value += factor * inner;
      for (const [e, slope] of slopes.entries())
        loss.dLogits[t * experts + e] = factor * slope * (f[e]! - inner);
    }
  }
  return loss;
}

/** The mean of (ln Σ_e exp z_e)² (ST-MoE, arXiv 2202.08906). */
function squaredLogSums(scope: Scope): Loss {
  const { logits, experts, counted } = scope;
  const loss = nothing(scope);
  for (const t of counted) {
    const z = rowOf(scope, logits, t);
    const max = Math.max(...z);
    const logSum = max + Math.log(z.reduce((sum, value) => sum + Math.exp(value - max), 0));
    loss.value += logSum ** 2 / counted.length;
    const shares = softmax(z);
    for (const [e, p] of shares.entries()) loss.dLogits[t * experts + e] = (2 * logSum * p) / counted.length;
  }
  return loss;
}

/** Variance over squared mean, 0 where that is 0, and its gradient (Shazeer 2017, arXiv 1701.06538). */
function squaredVariation(sums: Float64Array): { value: number; gradient: Float64Array } {
  const n = sums.length;
  const mean = sums.reduce((a, b) => a + b, 0) / n;
  if (mean === 0) return { value: 0, gradient: new Float64Array(n) };
  const variance = sums.reduce((total, sum) => total + (sum - mean) ** 2, 0) / n;
  return {
    value: variance / mean ** 2,
    gradient: sums.map(sum => (2 * (sum - mean - variance / mean)) / (n * mean ** 2)),
  };
}

/** CV² of the sum of each expert's weights. */
function importanceLoss(scope: Scope): Loss {
  const { router, logits, experts, choice, counted } = scope;
  const { weights } = referenceRoute(router, logits, experts, choice);
  const served = counted
    .flatMap(t => takenSlots(scope, t))
    .filter(({ slot }) => choice.dropped[slot] === SERVED);
  const sums = new Float64Array(experts);
  for (const { slot, expert } of served) sums[expert]! += weights[slot]!;
  const { value, gradient } = squaredVariation(sums);
  const dWeights = new Float64Array(weights.length);
  for (const { slot, expert } of served) dWeights[slot] = gradient[expert]!;
  return { value, dLogits: referenceRouteBackward(router, logits, experts, choice, dWeights) };
}

/**
 * CV² of the sum of each expert's probability P of being among the K best if its noise alone were drawn again: Φ of the
 * distance of its clean logit to the K-th best of the others, in deviations of its noise (Shazeer 2017, appendix A).
 */
function loadLoss(scope: Scope): Loss {
  const { router, logits, experts, counted, noiseLogits } = scope;
  const K = slotsPerToken(router, experts);
  const { strength } = noiseOf(router)!;
  const numbers = logitNoise(router, logits.length / experts, experts)!;
  const thresholdOf = (token: number, expert: number) => {
    const others = rowOf(scope, logits, token).map((z, e) => (e === expert ? Number.NEGATIVE_INFINITY : z));
    return K < experts ? token * experts + chooseLargest(others, K)[K - 1]! : undefined;
  };
  const terms = counted.flatMap(token =>
    Array.from({ length: experts }, (_, expert) => {
      const at = token * experts + expert;
      const threshold = thresholdOf(token, expert);
      const deviation = strength * softplus(noiseLogits![at]!);
      const clean = logits[at]! - deviation * numbers[at]!;
      const distance = threshold === undefined ? Infinity : (clean - logits[threshold]!) / deviation;
      return { at, expert, threshold, deviation, distance };
    }),
  );
  const sums = new Float64Array(experts);
  for (const { expert, distance } of terms) sums[expert]! += normalShare(distance);
  const { value, gradient } = squaredVariation(sums);
  const loss = { ...nothing(scope), value, dNoiseLogits: new Float64Array(logits.length) };
  for (const { at, expert, threshold, deviation, distance } of terms) {
    if (threshold === undefined) continue;
    const flow = (gradient[expert]! * normalDensity(distance)) / deviation;
    loss.dLogits[at]! += flow;
    loss.dLogits[threshold]! -= flow;
    // With the noisy logit held fixed, more deviation moves the clean logit, and counts its distance in larger units.
    loss.dNoiseLogits[at] = -flow * strength * logistic(noiseLogits![at]!) * (numbers[at]! + distance);
  }
  return loss;
}

/** The mean of −Σ_e p_e ln p_e, p the shares of the scores. */
function meanEntropy(scope: Scope): number {
  const { router, logits, counted } = scope;
  const entropies = counted.map(t => {
    const { values } = scoreShares(router, rowOf(scope, logits, t));
    return values.reduce((sum, p) => (p > 0 ? sum - p * Math.log(p) : sum), 0);
  });
  return counted.length === 0 ? 0 : entropies.reduce((a, b) => a + b, 0) / counted.length;
}
