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
import { type DeviceName, type Tensor, tensor } from '../src/tensor.ts';
import type { LayerShape } from './shapes.ts';

export type WorkloadForward = MoeForwardResult & { readonly routing: Routing };

export class Workload implements Disposable {
  readonly shape: LayerShape;
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

  constructor(shape: LayerShape, dtype: FloatDType, device: DeviceName) {
    const { tokens: T, hidden: H, intermediate: I, experts: E, topK, activation } = shape;
    this.shape = shape;
    this.dtype = dtype;
    this.device = device;
    this.upName = isGated(activation) ? 'gateUp' : 'up';
    try {
      this.x = this.#random([T, H], 1);
      this.dy = this.#random([T, H], 1);
      // With one expert per token a normalised weight is always 1, and the router would have no gradient.
      this.router = { topK, normalize: topK > 1, weight: this.#random([E, H], H) };
      const up = this.#random([E, isGated(activation) ? 2 * I : I, H], H);
      this.experts = { [this.upName]: up, down: this.#random([E, H, I], I) } as { down: Tensor };
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  forward(save: SaveMode): WorkloadForward {
    const { x, router, experts } = this;
    return moeForward({ x, router, experts, activation: this.shape.activation, save }) as WorkloadForward;
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

  /** Uniform of variance 1 / fanIn, drawn in float32 and rounded to the dtype. */
  #random(shape: readonly number[], fanIn: number): Tensor {
    const values = new Float32Array(shape.reduce((a, b) => a * b));
    fillUniform(values, Math.sqrt(3 / fanIn), this.#tensors.length + 1);
    const made = tensor(values, shape, { dtype: this.dtype, device: this.device });
    this.#tensors.push(made);
    return made;
  }
}

/** Numbers from −bound to bound by xorshift (Marsaglia 2003), the same for the same seed. */
function fillUniform(values: Float32Array, bound: number, seed: number): void {
  const step = bound / 2 ** 31;
  let state = Math.imul(seed, 0x9e3779b9);
  for (let i = 0; i < values.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    values[i] = state * step;
  }
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
};
