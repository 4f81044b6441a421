// Keeping experts in use: auxiliary losses with their gradients, the bias update of loss-free balancing, statistics.

import {
  checkFinite,
  checkInteger,
  checkKeys,
  checkOptionalTensor,
  checkSameDevice,
  checkTensor,
} from '../check.ts';
import { FLOAT_DTYPES } from '../dtype.ts';
import { badArgument } from '../errors.ts';
import { type Calls, recall } from '../recall.ts';
import { nativeRouter } from '../router-run.ts';
import { empty, type Tensor } from '../tensor.ts';
import { disposeOnError, enqueue } from './call.ts';
import { checkRouting, type Routing, SLOT_FATES } from './route.ts';

export interface RouterLossArgs {
  routing: Routing;
  /** Coefficient α of the load-balancing loss. Default 0. */
  loadBalance?: number;
  /** Coefficient of the z-loss. Default 0. */
  z?: number;
  /** Coefficient of the importance loss. Default 0. */
  importance?: number;
  /** Coefficient of the load loss; for a routing with `noisyTopK` noise. Default 0. */
  load?: number;
  /** int32 [T]: tokens that are 0 here (padding) count for nothing. Default: the routing's own mask. */
  mask?: Tensor;
  /** Balance each run of so many tokens by itself (sequence-level, DeepSeek-V3), averaged. Default: all tokens together. */
  sequenceLength?: number;
  /** The expert scale given to {@link route}, needed for `importance` where one was. */
  expertScale?: Tensor;
}

export interface RouterLosses {
  /** float32 [4]: load balance, z, importance, load, each with its coefficient */
  readonly losses: Tensor;
  /** float32 [1]: the mean over tokens of −Σ_e p_e·ln p_e, in nats, p the shares of the load-balancing loss; a metric */
  readonly entropy: Tensor;
  /** float32 [T, E'], of `routing.logits` */
  readonly dLogits: Tensor;
  /** float32 [T, E'], of `routing.noiseLogits`, where the routing has them */
  readonly dNoiseLogits?: Tensor;
}

/**
 * Losses on the router, and their gradients to the logits, which {@link moeBackward} and {@link routeBackward} take as `dLogits`
 * and `dNoiseLogits`.
 *
 * - Load balance: α·E'·Σ_e f_e·P_e, with f_e the share of the routed slots that chose expert e (dropped ones included) and P_e
 *   the mean of its score's share of the token's scores: softmax, or s / Σ s for sigmoid and sqrtsoftplus (Switch, arXiv
 *   2101.03961; GShard; DeepSeek-V3). It is α where all are used alike. f is not differentiated.
 * - z-loss: coefficient · mean over tokens of (ln Σ_e exp z_e)² (ST-MoE, arXiv 2202.08906).
 * - Importance: coefficient · CV²(Σ_t weight of e), CV² the variance over the squared mean of the E' experts (Shazeer 2017,
 *   arXiv 1701.06538). Differentiated through the weights; the expert scale is a constant.
 * - Load: coefficient · CV²(Σ_t P(t, e)), P(t, e) = Φ((z_e − threshold) / (a·softplus(noise logit))) the probability that e would
 *   be among the K best under another draw of its noise, z_e without noise and the threshold the K-th best noisy logit of the
 *   others (Shazeer 2017, appendix A).
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_SHAPE, ERR_DTYPE, ERR_DEVICE_MISMATCH, ERR_DISPOSED
 */
export function routerLoss(args: RouterLossArgs): RouterLosses {
  return recall(LOSSES, args, routerLossAnew);
}

const LOSSES: Calls = [];

function routerLossAnew(args: RouterLossArgs): RouterLosses {
  const coefficients = ['loadBalance', 'z', 'importance', 'load'];
  checkKeys('args', args, ['routing', ...coefficients, 'mask', 'sequenceLength', 'expertScale']);
  const routing = checkRouting('routing', args.routing);
  const { logits, indices, weights, dropped, noiseLogits, router, run } = routing;
  const [tokens, experts] = logits.shape as [number, number];
  const { loadBalance = 0, z = 0, importance = 0, load = 0 } = args;
  for (const [name, value] of Object.entries({ loadBalance, z, importance, load })) checkFinite(name, value);
  const mask = checkOptionalTensor('mask', args.mask, { dtype: 'int32', shape: [tokens] }) ?? run.mask;
  const scaled = [experts - router.identityExperts];
  const { expertScale } = args;
  checkOptionalTensor('expertScale', expertScale, { dtype: FLOAT_DTYPES, shape: scaled });
  checkLosses(routing, args);
  checkSameDevice({ logits, indices, mask, expertScale });
  const { device } = logits;
  return disposeOnError(own => {
    const losses = own(empty([4], { device }));
    const entropy = own(empty([1], { device }));
    const dLogits = own(empty(logits.shape, { device }));
    const dNoiseLogits = noiseLogits && own(empty(logits.shape, { device }));
    enqueue(
      'routerLoss',
      { logits, indices, weights, dropped, noiseLogits, mask, expertScale },
      { losses, entropy, dLogits, dNoiseLogits },
      { loadBalance, z, importance, load, balanceLength: args.sequenceLength ?? 0 },
      nativeRouter(router, run),
    );
    return { losses, entropy, dLogits, ...(dNoiseLogits && { dNoiseLogits }) };
  });
}

/** Which losses this routing has, and over which runs. */
function checkLosses({ logits, noiseLogits, router }: Routing, args: RouterLossArgs): void {
  const tokens = logits.shape[0]!;
  const { loadBalance = 0, load = 0, sequenceLength } = args;
  if (loadBalance !== 0 && router.choice === 'all') {
    throw badArgument(
      'ERR_INVALID_ARGUMENT',
      'loadBalance',
      'nothing with expertChoice',
      String(loadBalance),
    );
  }
  if (load !== 0 && !noiseLogits) {
    const expected = 'nothing for a routing without noisyTopK noise';
    throw badArgument('ERR_INVALID_ARGUMENT', 'load', expected, String(load));
  }
  if (sequenceLength === undefined) return;
  checkInteger('sequenceLength', sequenceLength, 1);
  if (tokens % sequenceLength !== 0) {
    const expected = `a divisor of the ${tokens} tokens`;
    throw badArgument('ERR_INVALID_ARGUMENT', 'sequenceLength', expected, String(sequenceLength));
  }
}

/**
 * Loss-free balancing: in place, selectionBias[e] += rate · sign(mean of counts − counts[e]) (arXiv 2408.15664).
 * @param args.selectionBias float32 [E']
 * @param args.counts int32 [E'], of a {@link Routing}, or summed over several
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_SHAPE, ERR_DTYPE, ERR_DEVICE_MISMATCH, ERR_DISPOSED
 */
export function updateSelectionBias(args: BiasUpdate): void {
  recall(BIAS_UPDATES, args, updateSelectionBiasAnew);
}

type BiasUpdate = { selectionBias: Tensor; counts: Tensor; rate: number };
const BIAS_UPDATES: Calls = [];

function updateSelectionBiasAnew(args: BiasUpdate): void {
  checkKeys('args', args, ['selectionBias', 'counts', 'rate']);
  const selectionBias = checkTensor('selectionBias', args.selectionBias, { dtype: 'float32', shape: [null] });
  const counts = checkTensor('counts', args.counts, { dtype: 'int32', shape: selectionBias.shape });
  const rate = checkFinite('rate', args.rate);
  checkSameDevice({ selectionBias, counts });
  enqueue('updateSelectionBias', { selectionBias, counts, rate });
}

export interface RoutingStatistics {
  /** Slots that chose each expert, [E'] */
  readonly counts: Int32Array;
  /** counts divided by their sum; zeros where there are none */
  readonly shares: Float64Array;
  /** How far the most used expert is above the mean: max(counts) / mean(counts) − 1 (arXiv 2408.15664, MaxVio) */
  readonly maxViolation: number;
  /** Variance over squared mean of the counts (Shazeer 2017) */
  readonly squaredVariation: number;
  /** Slots dropped for want of capacity; where experts choose, tokens' slots that they did not take */
  readonly dropped: number;
}

const OVER_CAPACITY = SLOT_FATES.indexOf('overCapacity');
const RESIDUAL = SLOT_FATES.indexOf('residual');

/** How a routing used the experts. Waits for it, without blocking. */
export async function routingStatistics(routing: Routing): Promise<RoutingStatistics> {
  checkRouting('routing', routing);
  const [counts, dropped] = (await Promise.all([routing.counts.data(), routing.dropped?.data()])) as [
    Int32Array,
    Int32Array | undefined,
  ];
  const total = counts.reduce((sum, count) => sum + count, 0);
  const mean = total / counts.length;
  const variance = counts.reduce((sum, count) => sum + (count - mean) ** 2, 0) / counts.length;
  return {
    counts,
    shares: Float64Array.from(counts, count => (total > 0 ? count / total : 0)),
    maxViolation: total > 0 ? Math.max(...counts) / mean - 1 : 0,
    squaredVariation: total > 0 ? variance / mean ** 2 : 0,
    dropped: dropped?.filter(fate => fate === OVER_CAPACITY || fate === RESIDUAL).length ?? 0,
  };
}
