// A layer of random weights with an input and an output gradient: what is checked and timed. Everything is of unit scale.

import { isGated } from '../src/activation.ts';
import type { FloatDType } from '../src/dtype.ts';
import type { ExpertName, Experts } from '../src/ops/experts.ts';
import {
  type MoeForwardResult,
  type MoeGradients,
  type MoeSaved,
  moeBackward,
  moeForward,
  type RouterParameters,
  type SaveMode,
} from '../src/ops/moe.ts';
import { type Routing, routingTensors } from '../src/ops/route.ts';
import { castInto, type DeviceName, empty, type Tensor, tensor } from '../src/tensor.ts';
import {
  type LayerDesign,
  logitsPerToken,
  plainDesign,
  resolveDesign,
  routerOptions,
} from './layer-design.ts';
import type { LayerShape } from './shapes.ts';

export type WorkloadForward = MoeForwardResult & { readonly routing: Routing };

/** What else a layer may be made of. */
export interface WorkloadOptions {
  /** Default: the plain one. */
  readonly design?: LayerDesign;
  /** Expert ids [T, K], where the router only weighs them. */
  readonly indices?: Int32Array;
}

export class Workload implements Disposable {
  readonly shape: LayerShape;
  readonly design: LayerDesign;
  readonly dtype: FloatDType;
  readonly device: DeviceName;
  /** The name of the up projection's weight in {@link Experts}. */
  readonly upName: 'gateUp' | 'up';
  readonly x: Tensor;
  readonly dy: Tensor;
  readonly router: RouterParameters;
  readonly experts: Experts;
  readonly #tensors: Tensor[] = [];
  #kept: WorkloadForward | undefined;

  constructor(shape: LayerShape, dtype: FloatDType, device: DeviceName, options: WorkloadOptions = {}) {
    const { tokens: T, hidden: H, activation } = shape;
    this.shape = shape;
    this.design = options.design ?? plainDesign(shape);
    this.dtype = dtype;
    this.device = device;
    this.upName = isGated(activation) ? 'gateUp' : 'up';
    try {
      this.x = this.#random([T, H]);
      this.dy = this.#random([T, H]);
      this.router = this.#makeRouter(options.indices);
      this.experts = this.#makeExperts();
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  #makeRouter(indices: Int32Array | undefined): RouterParameters {
    const { shape, design } = this;
    const { tokens, hidden, topK } = shape;
    const { score, level, capacity } = resolveDesign('router', shape, design);
    const logits = logitsPerToken(shape, design);
    // A tenth of what scores are about.
    const biasDeviation = 0.1 * (score === 'softmax' ? 1 / logits : 0.5);
    const { bias, selectionBias } = design.router;
    return {
      ...routerOptions(shape, design),
      weight: this.#random([logits, hidden], { deviation: 1 / Math.sqrt(hidden) }),
      ...(bias && { bias: this.#random([logits], { deviation: BIAS_DEVIATION }) }),
      ...(selectionBias && {
        selectionBias: this.#random([logits], { deviation: biasDeviation, dtype: 'float32' }),
      }),
      ...(indices && { indices: this.#keep(tensor(indices, [tokens, topK], { device: this.device })) }),
      // All tokens are one sequence.
      ...((level === 'sequence' || capacity?.per === 'sequence') && { sequenceLength: tokens }),
    };
  }

  #makeExperts(): Experts {
    const { hidden: H, intermediate: I, experts: E } = this.shape;
    const upWidth = this.upName === 'gateUp' ? 2 * I : I;
    const up = this.#random([E, upWidth, H], { deviation: 1 / Math.sqrt(H) });
    const down = this.#random([E, H, I], { deviation: 1 / Math.sqrt(I) });
    const weights = { [this.upName]: up, down };
    if (!this.design.bias) return weights;
    const upBias = this.#random([E, upWidth], { deviation: BIAS_DEVIATION });
    const downBias = this.#random([E, H], { deviation: BIAS_DEVIATION });
    return { ...weights, [`${this.upName}Bias`]: upBias, downBias };
  }

  forward(save: SaveMode): WorkloadForward {
    const { x, router, experts, shape, design } = this;
    const { activationLimit, activationAlpha, activationUpShift, applyWeightTo } = design;
    return moeForward({
      ...{ x, router, experts, save, activation: shape.activation },
      ...{ activationLimit, activationAlpha, activationUpShift, applyWeightTo },
    }) as WorkloadForward;
  }

  backward(saved: MoeSaved): MoeGradients {
    return moeBackward({ dy: this.dy, saved });
  }

  /** A forward pass for backward passes to follow, made once and kept. */
  keptForward(): WorkloadForward {
    this.#kept ??= this.forward('activations');
    return this.#kept;
  }

  dropForward(): void {
    if (this.#kept) disposeForward(this.#kept);
    this.#kept = undefined;
  }

  dispose(): void {
    this.dropForward();
    for (const tensor of this.#tensors) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #keep(made: Tensor): Tensor {
    this.#tensors.push(made);
    return made;
  }

  /** Uniform, drawn in float32 and rounded to the dtype. */
  #random(
    shape: readonly number[],
    { deviation = 1, dtype = this.dtype }: { deviation?: number; dtype?: FloatDType } = {},
  ): Tensor {
    const made = this.#keep(empty(shape, { dtype, device: this.device }));
    fillUniform(made, Math.sqrt(3) * deviation, this.#tensors.length);
    return made;
  }
}

const BIAS_DEVIATION = 0.5;
/** Elements that are drawn at a time: of a large tensor no second copy is made. */
const CHUNK = 2 ** 22;

/** Numbers from −bound to bound by xorshift (Marsaglia 2003), the same for the same seed. */
function fillUniform(target: Tensor, bound: number, seed: number): void {
  const values = new Float32Array(Math.min(CHUNK, target.size));
  const step = bound / 2 ** 31;
  let state = Math.imul(seed, 0x9e3779b9);
  for (let at = 0; at < target.size; at += values.length) {
    const part = values.subarray(0, target.size - at);
    for (let i = 0; i < part.length; i++) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      part[i] = state * step;
    }
    using source = tensor(part, [part.length], { device: target.device });
    castInto(source, target, at);
  }
}

/** The rows that each expert gets. */
export function loadOfExperts(workload: Workload): number[] {
  const forward = workload.forward('nothing');
  const { indices, dropped } = forward.routing;
  const served = servedSlots(indices.dataSync() as Int32Array, dropped?.dataSync() as Int32Array | undefined);
  disposeForward(forward);
  return rowsPerExpert(served, workload.shape.experts);
}

/** Of the experts of slots, those whose slot is served; −1 for the others. */
export function servedSlots(indices: Int32Array, dropped: Int32Array | undefined): Int32Array {
  return indices.map((expert, slot) => (dropped?.[slot] ? -1 : expert));
}

/** Of experts that compute: an identity expert has no rows. */
export function rowsPerExpert(served: Int32Array, experts: number): number[] {
  const rows: number[] = Array(experts).fill(0);
  for (const expert of served) if (rows[expert] !== undefined) rows[expert]++;
  return rows;
}

export function disposeForward({ y, routing, saved }: WorkloadForward): void {
  for (const made of [y, ...routingTensors(routing)]) made.dispose();
  saved?.dispose();
}

export function disposeGradients({ experts, shared, ...rest }: MoeGradients): void {
  for (const made of [rest, experts, shared ?? {}].flatMap(group => Object.values(group))) made?.dispose();
}

/** The names that parameters are published by. */
export const PUBLISHED_NAMES: Readonly<Partial<Record<ExpertName, string>>> = {
  gateUp: 'experts.gate_up',
  up: 'experts.up',
  down: 'experts.down',
  gateUpBias: 'experts.gate_up_bias',
  upBias: 'experts.up_bias',
  downBias: 'experts.down_bias',
};
