// The model: embedding of the last C bytes → mixing → MoE layer → head over 256 bytes, forward and backward.
//
//   h₀ = mix(embedding of each context byte, side by side)     [T, C·D] → [T, H]: one projection per position, summed
//   h₁ = h₀ + moe(rmsNorm(h₀))                                 [T, H]
//   logits = head(rmsNorm(h₁))                                 [T, 256]

import { MoELayer, type NamedTensors, type Tensor, tensor } from '../../src/index.ts';
import { add, crossEntropy, loadBalancing, rmsNorm, rmsNormBackward, seededRandom } from './maths.ts';
import { Dense, Parameter, uniform } from './parameter.ts';

export interface ModelConfig {
  /** C, bytes the model sees */
  readonly context: number;
  /** D, numbers per embedded byte */
  readonly embedding: number;
  readonly hidden: number;
  readonly intermediate: number;
  readonly experts: number;
  readonly topK: number;
  /** α of the load-balancing loss */
  readonly balance: number;
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
  readonly balance: number;
  /** Routed rows of each expert */
  readonly counts: ArrayLike<number>;
}

export class ByteModel implements Disposable {
  readonly config: ModelConfig;
  /** Everything that is trained, by name. */
  readonly parameters: Readonly<Record<string, Parameter>>;
  readonly #embedding: Parameter;
  readonly #mix: Dense;
  readonly #moe: MoELayer;
  readonly #moeGradients: NamedTensors;
  readonly #head: Dense;

  constructor(config: ModelConfig) {
    const { context, embedding: D, hidden: H, intermediate: I, experts: E, topK, seed } = config;
    const random = seededRandom(seed);
    this.config = config;
    this.#embedding = new Parameter([256, D], () => 2 * random() - 1);
    this.#mix = new Dense(context * D, H, random);
    const moe = {
      'router.weight': new Parameter([E, H], uniform(H, random)),
      'experts.gate_up': new Parameter([E, 2 * I, H], uniform(H, random)),
      'experts.down': new Parameter([E, H, I], uniform(I, random)),
    };
    this.#moe = new MoELayer(
      { hidden: H, intermediate: I, experts: E, topK, router: { normalize: true } },
      { weights: mapValues(moe, parameter => parameter.value) },
    );
    this.#moeGradients = mapValues(moe, parameter => parameter.gradient);
    this.#head = new Dense(H, 256, random);
    this.parameters = {
      embedding: this.#embedding,
      'mix.weight': this.#mix.weight,
      'mix.bias': this.#mix.bias,
      ...moe,
      'head.weight': this.#head.weight,
      'head.bias': this.#head.bias,
    };
  }

  /** The losses of a batch. With `train`, their gradients are added to the parameters', and are there when this resolves. */
  async run({ contexts, targets }: Batch, train = false): Promise<Losses> {
    const { hidden, balance: alpha } = this.config;
    const tokens = targets.length;
    using x = share(this.#embed(contexts), tokens);
    using mixed = this.#mix.forward(x);
    const h0 = await mixed.float32();
    const norm0 = rmsNorm(h0, hidden);
    using moeIn = share(norm0.out, tokens);
    const moe = this.#moe.forwardTrain(moeIn);
    using saved = moe.saved;
    using moeOut = moe.y;
    const h1 = add(h0, await moeOut.float32());
    const norm1 = rmsNorm(h1, hidden);
    using headIn = share(norm1.out, tokens);
    using logits = this.#head.forward(headIn);
    const counts = await moe.routing.counts.data();
    const balance = loadBalancing(await moe.routing.logits.float32(), counts, alpha);
    const prediction = crossEntropy(await logits.float32(), targets);
    const losses = { prediction: prediction.value, balance: balance.value, counts };
    if (!train) return losses;

    using dLogits = share(prediction.dLogits, tokens);
    using dHeadIn = this.#head.backward(headIn, dLogits);
    const dH1 = rmsNormBackward(norm1, await dHeadIn.float32());
    using dMoeOut = share(dH1, tokens);
    using dRouterLogits = share(balance.dLogits, tokens);
    const options = { dLogits: dRouterLogits, accumulateInto: this.#moeGradients };
    using dMoeIn = this.#moe.backward(saved, dMoeOut, options).dx;
    const dH0 = add(dH1, rmsNormBackward(norm0, await dMoeIn.float32()));
    using dMixed = share(dH0, tokens);
    using dx = this.#mix.backward(x, dMixed);
    // Ops run in order: once the last one's result is here, every gradient is.
    this.#embedBackward(contexts, await dx.float32());
    return losses;
  }

  [Symbol.dispose](): void {
    for (const parameter of Object.values(this.parameters)) parameter[Symbol.dispose]();
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

function mapValues<T, U>(record: Record<string, T>, map: (value: T) => U): Record<string, U> {
  return Object.fromEntries(Object.entries(record).map(([name, value]) => [name, map(value)]));
}
