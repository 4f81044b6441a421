// The MoE layer of the model under one of the recipes: what the layer is told, the losses on its router, and the selection
// bias that follows the counts. Nothing here knows a routing family by its name.

import {
  MoELayer,
  type MoELayerConfig,
  type MoeSaved,
  type NamedTensors,
  type Routing,
  routerLoss,
  type Tensor,
  tensor,
  updateSelectionBias,
  zeros,
} from '../../src/index.ts';
import type { Losses, ModelConfig } from './model.ts';
import { Parameter } from './parameter.ts';

/** One forward pass: its result, what its backward pass needs, and in training the losses on its router. */
export interface MoeRun extends Disposable {
  readonly y: Tensor;
  readonly routing: Routing;
  readonly saved: MoeSaved;
  readonly losses?: ReturnType<typeof routerLoss> | undefined;
}

export class RoutedExperts implements Disposable {
  /** Everything that is trained by its gradient, by name. */
  readonly parameters: Readonly<Record<string, Parameter>>;
  readonly layer: MoELayer;
  readonly #config: ModelConfig;
  readonly #gradients: NamedTensors;

  constructor(config: ModelConfig) {
    const { hidden, experts, intermediate, topK, router, seed } = config;
    const sizes = { hidden, experts, intermediate };
    const layer = { ...sizes, ...router.layer(sizes), ...(topK !== undefined && { topK }) };
    this.#config = config;
    this.parameters = initialParameters(layer, seed);
    this.#gradients = mapValues(this.parameters, parameter => parameter.gradient);
    const weights = mapValues(this.parameters, parameter => parameter.value);
    if (layer.router?.selectionBias) weights[SELECTION_BIAS] = zeros([layer.experts]);
    this.layer = new MoELayer(layer, { weights });
  }

  /**
   * @param x [T, H]
   * @param contexts [T, C], for a router that is told the experts
   * @param step of training; without it, there are neither noise nor losses on the router
   */
  forward(x: Tensor, contexts: Uint8Array, step?: number): MoeRun {
    const { router } = this.layer.config;
    const { sequence, router: recipe } = this.#config;
    using indices = router.hash ? this.#expertsOfLastByte(contexts) : undefined;
    const { y, routing, saved } = this.layer.forwardTrain(x, {
      ...(indices && { indices }),
      ...(decidesBySequence(router) && { sequenceLength: sequence }),
      ...(step !== undefined && { step }),
    });
    const balanced = recipe.balancePer === 'sequence' ? { sequenceLength: sequence } : {};
    const losses = step === undefined ? undefined : routerLoss({ routing, ...recipe.losses, ...balanced });
    const dispose = () => {
      for (const part of [y, saved, ...Object.values(losses ?? {})]) part.dispose();
    };
    return { y, routing, saved, losses, [Symbol.dispose]: dispose };
  }

  /** Adds to the parameters' gradients, moves the selection bias, and returns dx. */
  backward({ routing, saved, losses }: MoeRun, dy: Tensor): Tensor {
    const { dLogits, dNoiseLogits } = losses ?? {};
    const { dx } = this.layer.backward(saved, dy, {
      accumulateInto: this.#gradients,
      ...(dLogits && { dLogits }),
      ...(dNoiseLogits && { dNoiseLogits }),
    });
    const selectionBias = this.layer.parameters[SELECTION_BIAS];
    const { biasRate: rate } = this.#config.router;
    if (selectionBias && rate) updateSelectionBias({ selectionBias, counts: routing.counts, rate });
    return dx;
  }

  [Symbol.dispose](): void {
    for (const parameter of Object.values(this.parameters)) parameter[Symbol.dispose]();
    this.layer.dispose();
  }

  /** Hash routing (arXiv 2106.04426): a fixed, random expert for each byte, and the K − 1 after it. */
  #expertsOfLastByte(contexts: Uint8Array): Tensor {
    const { context } = this.#config;
    const { experts, topK } = this.layer.config;
    const tokens = contexts.length / context;
    const ids = Int32Array.from({ length: tokens * topK }, (_, slot) => {
      const byte = contexts[(Math.floor(slot / topK) + 1) * context - 1]!;
      const first = Math.imul(byte + 1, 0x9e3779b1) >>> 16;
      return (first + (slot % topK)) % experts;
    });
    return tensor(ids, [tokens, topK]);
  }
}

/** The losses on the router, and how it used the experts. */
export async function reportOf({ routing, losses }: MoeRun): Promise<Omit<Losses, 'prediction'>> {
  const counts = (await routing.counts.data()) as Int32Array;
  const dropped = (await routing.dropped?.data()) as Int32Array | undefined;
  return {
    router: losses ? sum(await losses.losses.float32()) : 0,
    tokens: routing.logits.shape[0]!,
    counts,
    rows: dropped ? dropped.filter(flag => flag === 0).length : sum(counts),
  };
}

const SELECTION_BIAS = 'router.selection_bias';

/** What a layer of this configuration draws for itself, without what no gradient trains. */
function initialParameters(config: MoELayerConfig, seed: number): Record<string, Parameter> {
  using drawn = new MoELayer(config, { seed });
  const { [SELECTION_BIAS]: _, ...trained } = drawn.parameters;
  return mapValues(trained, value => {
    const values = value.dataSync().values();
    return new Parameter(value.shape, () => values.next().value!);
  });
}

/** Whether the router decides over whole sequences, and so has to be told how long they are. */
function decidesBySequence({ level, capacity, expertChoice }: NonNullable<MoELayerConfig['router']>) {
  return level === 'sequence' || capacity?.per === 'sequence' || expertChoice?.per === 'sequence';
}

function mapValues<T, U>(record: Record<string, T>, map: (value: T) => U): Record<string, U> {
  return Object.fromEntries(Object.entries(record).map(([name, value]) => [name, map(value)]));
}

function sum(values: Iterable<number>): number {
  return Array.from(values).reduce((a, b) => a + b, 0);
}
