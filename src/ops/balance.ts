// Keeping experts in use: auxiliary losses with their gradients, the bias update of loss-free balancing, statistics.

import {
  checkFinite,
  checkInteger,
  checkKeys,
  checkOptionalTensor,
  checkSameDevice,
  checkTensor,
} from '../check.ts';
import { badArgument } from '../errors.ts';
import { enumIndex } from '../native.ts';
import { empty, type Tensor } from '../tensor.ts';
import { disposeOnError, enqueue } from './call.ts';
import { checkRouting, type Routing } from './route.ts';

export interface RouterLossArgs {
  routing: Routing;
  /** Coefficient α of the load-balancing loss. Default 0. */
  loadBalance?: number;
  /** Coefficient of the z-loss. Default 0. */
  z?: number;
  /** int32 [T]: tokens that are 0 here (padding) count for nothing. */
  mask?: Tensor;
  /** Balance each run of so many tokens by itself (sequence-level, DeepSeek-V3), averaged. Default: all tokens together. */
  sequenceLength?: number;
}

/**
 * Losses on the router, and their gradient to the logits, which {@link moeBackward} and {@link routeBackward} take as `dLogits`.
 *
 * - Load balance: α·E'·Σ_e f_e·P_e, with f_e the share of the routed slots that chose expert e (dropped ones included) and P_e
 *   the mean of its score's share of the token's scores: softmax, or s / Σ s for sigmoid and sqrtsoftplus (Switch, arXiv
 *   2101.03961; DeepSeek-V3). It is α where all are used alike.
 * - z-loss: coefficient · mean over tokens of (ln Σ_e exp z_e)² (ST-MoE, arXiv 2202.08906).
 *
 * f is not differentiated.
 * @returns losses float32 [2] (load balance, z), with their coefficients; dLogits float32 [T, E']
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_SHAPE, ERR_DTYPE, ERR_DEVICE_MISMATCH, ERR_DISPOSED
 */
export function routerLoss(args: RouterLossArgs): { losses: Tensor; dLogits: Tensor } {
  checkKeys('args', args, ['routing', 'loadBalance', 'z', 'mask', 'sequenceLength']);
  const { logits, indices, router } = checkRouting('routing', args.routing);
  const tokens = logits.shape[0]!;
  const loadBalance = checkFinite('loadBalance', args.loadBalance ?? 0);
  const z = checkFinite('z', args.z ?? 0);
  const mask = checkOptionalTensor('mask', args.mask, { dtype: 'int32', shape: [tokens] });
  const sequenceLength =
    args.sequenceLength === undefined ? 0 : checkInteger('sequenceLength', args.sequenceLength, 1);
  if (sequenceLength > 0 && tokens % sequenceLength !== 0) {
    const expected = `a divisor of the ${tokens} tokens`;
    throw badArgument('ERR_INVALID_ARGUMENT', 'sequenceLength', expected, String(sequenceLength));
  }
  checkSameDevice({ logits, indices, mask });
  return disposeOnError(own => {
    const losses = own(empty([2]));
    const dLogits = own(empty(logits.shape));
    const score = enumIndex('score', router.score);
    enqueue('routerLoss', { logits, indices, mask, score, sequenceLength, loadBalance, z, losses, dLogits });
    return { losses, dLogits };
  });
}

/**
 * Loss-free balancing: in place, selectionBias[e] += rate · sign(mean of counts − counts[e]) (arXiv 2408.15664).
 * @param args.selectionBias float32 [E']
 * @param args.counts int32 [E'], of a {@link Routing}, or summed over several
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_SHAPE, ERR_DTYPE, ERR_DEVICE_MISMATCH, ERR_DISPOSED
 */
export function updateSelectionBias(args: { selectionBias: Tensor; counts: Tensor; rate: number }): void {
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
  /** Slots dropped for want of capacity */
  readonly dropped: number;
}

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
    dropped: dropped?.reduce((sum, flag) => sum + flag, 0) ?? 0,
  };
}
