// The model: embedding of the last C bytes → mixing → MoE layer → head over 256 bytes, forward and backward.
//
//   h₀ = mix(embedding of each context byte, side by side)     [T, C·D] → [T, H]: one projection per position, summed
//   h₁ = h₀ + moe(rmsNorm(h₀))                                 [T, H]
//   logits = head(rmsNorm(h₁))                                 [T, 256]

import { type Tensor, tensor } from '../../src/index.ts';
import { add, crossEntropy, rmsNorm, rmsNormBackward, seededRandom } from './maths.ts';
import { RoutedExperts, reportOf } from './moe.ts';
import { Dense, Parameter } from './parameter.ts';
import type { Recipe } from './routers.ts';

export interface ModelConfig {
  /** C, bytes the model sees */
  readonly context: number;
  /** D, numbers per embedded byte */
  readonly embedding: number;
  readonly hidden: number;
  readonly intermediate: number;
  readonly experts: number;
  /** K, where it is not to be the recipe's */
  readonly topK?: number | undefined;
  readonly router: Recipe;
  /** Consecutive bytes of a batch */
  readonly sequence: number;
  readonly seed: number;
}

export interface Batch {
  /** [T, C], the last byte last */
  readonly contexts: Uint8Array;
  /** [T], the bytes that follow */
  readonly targets: Uint8Array;
}

export interface Losses {
  /** Mean cross-entropy in nats per byte */
  readonly prediction: number;
  /** The losses on the router, added; 0 without a step */
  readonly router: number;
  /** T */
  readonly tokens: number;
  /** Slots that chose each expert, [E] */
  readonly counts: Int32Array;
  /** Slots that an expert computed a row for: all, where nothing is dropped */
  readonly rows: number;
}

export class ByteModel implements Disposable {
  readonly config: ModelConfig;
  /** Everything that is trained by its gradient, by name. */
  readonly parameters: Readonly<Record<string, Parameter>>;
  readonly moe: RoutedExperts;
  readonly #embedding: Parameter;
  readonly #mix: Dense;
  readonly #head: Dense;

  constructor(config: ModelConfig) {
    const { context, embedding: D, hidden: H, seed } = config;
    const random = seededRandom(seed);
    this.config = config;
    this.#embedding = new Parameter([256, D], () => 2 * random() - 1);
    this.#mix = new Dense(context * D, H, random);
    this.moe = new RoutedExperts(config);
    this.#head = new Dense(H, 256, random);
    this.parameters = {
      embedding: this.#embedding,
      'mix.weight': this.#mix.weight,
      'mix.bias': this.#mix.bias,
      ...this.moe.parameters,
      'head.weight': this.#head.weight,
      'head.bias': this.#head.bias,
    };
  }

  /**
   * The losses of a batch. With the number of a training `step`, the router has its noise and its losses, and all gradients
   * are added to the parameters'; they are there when this resolves.
   */
  async run({ contexts, targets }: Batch, step?: number): Promise<Losses> {
    const { hidden } = this.config;
    const tokens = targets.length;
    using x = share(this.#embed(contexts), tokens);
    using mixed = this.#mix.forward(x);
    const h0 = await mixed.float32();
    const norm0 = rmsNorm(h0, hidden);
    using moeIn = share(norm0.out, tokens);
    using moe = this.moe.forward(moeIn, contexts, step);
    const h1 = add(h0, await moe.y.float32());
    const norm1 = rmsNorm(h1, hidden);
    using headIn = share(norm1.out, tokens);
    using logits = this.#head.forward(headIn);
    const prediction = crossEntropy(await logits.float32(), targets);
    const losses = { prediction: prediction.value, ...(await reportOf(moe)) };
    if (step === undefined) return losses;

    using dLogits = share(prediction.dLogits, tokens);
    using dHeadIn = this.#head.backward(headIn, dLogits);
    const dH1 = rmsNormBackward(norm1, await dHeadIn.float32());
    using dMoeOut = share(dH1, tokens);
    using dMoeIn = this.moe.backward(moe, dMoeOut);
    const dH0 = add(dH1, rmsNormBackward(norm0, await dMoeIn.float32()));
    using dMixed = share(dH0, tokens);
    using dx = this.#mix.backward(x, dMixed);
    // Ops run in order: once the last one's result is here, every gradient is.
    this.#embedBackward(contexts, await dx.float32());
    return losses;
  }

  [Symbol.dispose](): void {
    for (const parameter of Object.values(this.parameters)) parameter[Symbol.dispose]();
    this.moe[Symbol.dispose]();
  }

  /** [T, C] bytes → [T, C·D] */
  #embed(contexts: Uint8Array): Float32Array {
    const { embedding: width } = this.config;
    const out = new Float32Array(contexts.length * width);
    contexts.forEach((byte, i) => {
      out.set(this.#embedding.values.subarray(byte * width, (byte + 1) * width), i * width);
    });
    return out;
  }

  #embedBackward(contexts: Uint8Array, dOut: Float32Array): void {
    const { embedding: width } = this.config;
    const { gradients } = this.#embedding;
    contexts.forEach((byte, i) => {
      for (let d = 0; d < width; d++)
        gradients[byte * width + d] = gradients[byte * width + d]! + dOut[i * width + d]!;
    });
  }
}

/** The array as a tensor [rows, …] over the same memory. */
function share(array: Float32Array, rows: number): Tensor {
  return tensor(array, [rows, array.length / rows], { copy: false });
}
