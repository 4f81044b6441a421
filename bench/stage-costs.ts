// What each stage of a layer costs at least: floating-point operations of its matrix products, and bytes that are read or written
// once however large the caches are. T tokens, H hidden, I intermediate, E experts, K experts per token, R routed rows.

import { isGated } from '../src/activation.ts';
import type { NativeOp } from '../src/native.ts';
import type { RoutedShape } from './routed-shapes.ts';
import { slotCount } from './shapes.ts';

export interface StageCost {
  /** Of matrix products alone. */
  readonly flops: number;
  readonly bytes: number;
  /** Whether the products are in float32 whatever the layer's dtype is. */
  readonly inFloat32?: boolean;
}

/** How a layer was run. */
export interface LayerRun {
  readonly shape: RoutedShape;
  readonly elementBytes: number;
  /** Experts that any token reached. */
  readonly touchedExperts: number;
  /** Rows that experts get. Default T·K. */
  readonly rows?: number;
  /** Whether the forward pass keeps its pre-activation rows. */
  readonly saves: boolean;
}

/** Of int32 and float32, in which routing is. */
const ROUTING_BYTES = 4;

export type StageCosts = Readonly<Partial<Record<NativeOp, Readonly<Record<string, StageCost>>>>>;

/** The cost of each stage of each op, by the names that the addon records. */
export function stageCosts(run: LayerRun): StageCosts {
  return { ...routerCosts(run), ...expertCosts(run) };
}

function routerCosts({ shape, elementBytes: s }: LayerRun): StageCosts {
  const { tokens: T, hidden: H, logits: E = shape.experts, slots: K = shape.topK } = shape;
  const product = { flops: 2 * T * E * H, inFloat32: true };
  const [x, weight] = [s * T * H, s * E * H];
  const [logits, slots] = [ROUTING_BYTES * T * E, ROUTING_BYTES * T * K];
  return {
    route: {
      logits: { ...product, bytes: x + weight + logits },
      // Out: expert ids and weights.
      choice: { flops: 0, bytes: logits + 2 * slots },
    },
    dispatch: {
      count: { flops: 0, bytes: slots },
      // Out: the slot of each row, the row of each slot.
      place: { flops: 0, bytes: 3 * slots },
    },
    routeBackward: {
      // In: logits, expert ids, gradients of weights.
      dLogits: { flops: 0, bytes: 2 * logits + 2 * slots },
      // Added to the dx of the experts.
      dx: { ...product, bytes: logits + weight + 2 * x },
      dRouter: { ...product, bytes: logits + x + weight },
    },
  };
}

function expertCosts({
  shape,
  elementBytes: s,
  touchedExperts,
  rows: R = slotCount(shape),
  saves,
}: LayerRun): StageCosts {
  const { tokens: T, hidden: H, intermediate: I, experts: E, activation } = shape;
  const c = isGated(activation) ? 2 : 1;
  const product = 2 * R * H * I;
  /** Of one expert. */
  const weight = s * H * I;
  const [tokens, rows, activated] = [s * T * H, s * R * H, s * R * I];
  const slots = ROUTING_BYTES * R;
  return {
    expertsForward: {
      up: {
        flops: c * product,
        bytes: touchedExperts * c * weight + tokens + activated + (saves ? c * activated : 0),
      },
      down: { flops: product, bytes: touchedExperts * weight + activated + rows },
      // In: rows, their places and weights.
      combine: { flops: 0, bytes: rows + 2 * slots + tokens },
    },
    expertsBackward: {
      // In: down, dy, pre-activations; out: their gradients, activated rows times the routing weight.
      dPre: {
        flops: product,
        bytes: touchedExperts * weight + tokens + 2 * c * activated + activated,
      },
      // In: the sums that dPre left, one for each row at least.
      dWeights: { flops: 0, bytes: 2 * slots },
      dRows: { flops: c * product, bytes: touchedExperts * c * weight + c * activated + rows },
      // In: rows and their places.
      dx: { flops: 0, bytes: rows + slots + tokens },
      dDown: { flops: product, bytes: tokens + activated + E * weight },
      dUp: { flops: c * product, bytes: tokens + c * activated + E * c * weight },
    },
  };
}
