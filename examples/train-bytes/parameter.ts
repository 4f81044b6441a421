// What is trained, and how: arrays shared with the kernels without a copy, dense layers made of them, and Adam.

import {
  groupedMatmul,
  groupedMatmulDgrad,
  groupedMatmulWgrad,
  type Tensor,
  tensor,
} from '../../src/index.ts';

/**
 * Values and their gradient. The kernels read and write the same memory that JavaScript does, so each side may touch it
 * only while the other is not: Adam steps after the ops that use the parameter have run.
 */
export class Parameter implements Disposable {
  readonly values: Float32Array;
  readonly gradients: Float32Array;
  readonly value: Tensor;
  readonly gradient: Tensor;

  constructor(shape: readonly number[], initial: () => number) {
    const size = shape.reduce((a, b) => a * b, 1);
    this.values = Float32Array.from({ length: size }, initial);
    this.gradients = new Float32Array(size);
    this.value = tensor(this.values, shape, { copy: false });
    this.gradient = tensor(this.gradients, shape, { copy: false });
  }

  [Symbol.dispose](): void {
    this.value.dispose();
    this.gradient.dispose();
  }
}

/** out = rows · weightᵀ + bias: a grouped matmul with one group. */
export class Dense {
  readonly weight: Parameter;
  readonly bias: Parameter;

  constructor(inputs: number, outputs: number, random: () => number) {
    this.weight = new Parameter([1, outputs, inputs], uniform(inputs, random));
    this.bias = new Parameter([1, outputs], () => 0);
  }

  forward(rows: Tensor): Tensor {
    using offsets = oneGroup(rows);
    return groupedMatmul({ rows, weight: this.weight.value, bias: this.bias.value, offsets }).out;
  }

  /** Adds to the parameters' gradients; returns the gradient of the rows. */
  backward(rows: Tensor, dOut: Tensor): Tensor {
    using offsets = oneGroup(rows);
    const accumulateInto = { weight: this.weight.gradient, bias: this.bias.gradient };
    groupedMatmulWgrad({ dOut, rows, offsets, accumulateInto });
    return groupedMatmulDgrad({ dOut, weight: this.weight.value, offsets });
  }
}

function oneGroup(rows: Tensor): Tensor {
  return tensor([0, rows.shape[0]!], [2], { dtype: 'int32' });
}

/** U(±1/√fan-in), the initialisation of linear layers. */
export function uniform(fanIn: number, random: () => number): () => number {
  const bound = 1 / Math.sqrt(fanIn);
  return () => (2 * random() - 1) * bound;
}

/** Adam (Kingma & Ba 2015). */
export class Adam {
  readonly #slots: { parameter: Parameter; mean: Float32Array; square: Float32Array }[];
  #steps = 0;

  constructor(parameters: Iterable<Parameter>) {
    this.#slots = Array.from(parameters, parameter => ({
      parameter,
      mean: new Float32Array(parameter.values.length),
      square: new Float32Array(parameter.values.length),
    }));
  }

  /** One update in place; the gradients are zero afterwards. No op that uses the parameters may be pending. */
  step(learningRate: number, beta1 = 0.9, beta2 = 0.98, epsilon = 1e-8): void {
    this.#steps++;
    const rate = learningRate / (1 - beta1 ** this.#steps);
    const squareScale = 1 / (1 - beta2 ** this.#steps);
    for (const { parameter, mean, square } of this.#slots) {
      const { values, gradients } = parameter;
      for (let i = 0; i < values.length; i++) {
        const g = gradients[i]!;
        const m = beta1 * mean[i]! + (1 - beta1) * g;
        const s = beta2 * square[i]! + (1 - beta2) * g * g;
        mean[i] = m;
        square[i] = s;
        values[i] = values[i]! - (rate * m) / (Math.sqrt(s * squareScale) + epsilon);
      }
      gradients.fill(0);
    }
  }
}
