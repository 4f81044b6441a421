// MoELayer: owns a layer's parameters, under the names models are published with, and runs it whole.

import { type Activation, checkActivation, isGated } from './activation.ts';
import { checkBoolean, checkInteger, checkKeys, checkTensor } from './check.ts';
import { checkDType, type DType, FLOAT_DTYPES, type FloatDType } from './dtype.ts';
import { badArgument, MoeError } from './errors.ts';
import type { ExpertName, Experts } from './ops/experts.ts';
import { type MoeSaved, moeBackward, moeForward, type RouterParameters, type SaveMode } from './ops/moe.ts';
import type { Routing } from './ops/route.ts';
import { ROUTER_KEYS, type RouterOptions, resolveRouter } from './router.ts';
import { type DeviceName, type Tensor, tensor, zeros } from './tensor.ts';

export interface MoELayerConfig {
  /** H */
  hidden: number;
  /** I, the width of one expert */
  intermediate: number;
  /** E */
  experts: number;
  /** K */
  topK: number;
  /** Default: softmax over all experts. `bias: true` adds a router bias. */
  router?: Omit<RouterOptions, 'topK'> & { bias?: boolean };
  /** Default `swiglu`. */
  activation?: Activation;
  /** Biases on the experts' projections. Default false. */
  bias?: boolean;
  /** dtype of x, y and the parameters. Default float32. */
  dtype?: FloatDType;
  device?: DeviceName;
}

/** A layer's parameters, or their gradients, by name: `router.weight`, `experts.gate_up`, `experts.down`, … */
export type NamedTensors = { [name: string]: Tensor };

/** Published name → name in {@link Experts}. */
const EXPERT_PARAMETERS: Readonly<Record<string, ExpertName>> = {
  'experts.gate_up': 'gateUp',
  'experts.gate': 'gate',
  'experts.up': 'up',
  'experts.down': 'down',
  'experts.gate_up_bias': 'gateUpBias',
  'experts.gate_bias': 'gateBias',
  'experts.up_bias': 'upBias',
  'experts.down_bias': 'downBias',
};

export interface MoELayerBackward {
  /** [T, H] */
  readonly dx: Tensor;
  /** One for each parameter, under its name; those of `accumulateInto` where given. */
  readonly gradients: NamedTensors;
}

/**
 * A Mixture-of-Experts layer that owns its parameters.
 *
 * Parameters are named and shaped as models publish them: `router.weight` [E, H], `router.bias` [E], `experts.gate_up`
 * [E, 2I, H] or `experts.gate` and `experts.up` [E, I, H], `experts.down` [E, H, I], `experts.gate_up_bias` [E, 2I]
 * (`gate_bias`, `up_bias` [E, I]), `experts.down_bias` [E, H].
 */
export class MoELayer implements Disposable {
  readonly config: Readonly<
    Required<Omit<MoELayerConfig, 'router'>> & { router: RouterOptions & { bias: boolean } }
  >;
  readonly parameters: Readonly<NamedTensors>;

  /**
   * @param weights every parameter by name; the layer owns them from now on. Without it, weights are drawn from
   *   U(±1/√fan-in) with `seed`, biases are zero.
   * @throws MoeError ERR_INVALID_ARGUMENT, ERR_SHAPE, ERR_DTYPE
   */
  constructor(config: MoELayerConfig, source: { weights?: NamedTensors; seed?: number } = {}) {
    this.config = resolveConfig(config);
    checkKeys('source', source, ['weights', 'seed']);
    this.parameters = Object.freeze(
      source.weights
        ? { ...source.weights }
        : randomParameters(this.config, checkInteger('seed', source.seed ?? 0, 0)),
    );
    this.#checkParameters();
  }

  /** Inference: y [T, H] of x [T, H]. */
  forward(x: Tensor): Tensor {
    const { y, routing } = this.#run(x, 'nothing');
    for (const part of ['logits', 'indices', 'weights', 'counts'] as const) routing[part].dispose();
    return y;
  }

  /**
   * Forward for training. `saved` goes to {@link backward}, then `saved.dispose()` frees it.
   * @param options.recompute keep only input and routing, and compute the pre-activation again in the backward pass
   */
  forwardTrain(
    x: Tensor,
    options: { recompute?: boolean } = {},
  ): { y: Tensor; routing: Routing; saved: MoeSaved } {
    checkKeys('options', options, ['recompute']);
    const { y, routing, saved } = this.#run(x, options.recompute ? 'recompute' : 'activations');
    return { y, routing, saved: saved! };
  }

  /**
   * Gradients of everything.
   * @param dy [T, H], the gradient of y
   * @param options.dLogits float32 [T, E], a further gradient of the router's logits (a load-balancing loss)
   * @param options.accumulateInto gradients by parameter name that are added to instead of being made anew
   */
  backward(
    saved: MoeSaved,
    dy: Tensor,
    options: { dLogits?: Tensor; accumulateInto?: NamedTensors } = {},
  ): MoELayerBackward {
    checkKeys('options', options, ['dLogits', 'accumulateInto']);
    const into = options.accumulateInto ?? {};
    checkKeys('accumulateInto', into, Object.keys(this.parameters));
    const { 'router.weight': routerWeight, 'router.bias': routerBias, ...experts } = into;
    const result = moeBackward({
      dy,
      saved,
      dLogits: options.dLogits,
      accumulateInto: { routerWeight, routerBias, ...expertsByName(experts) },
    });
    result.dWeights.dispose();
    result.dLogits?.dispose();
    const gradients: NamedTensors = {};
    for (const name of Object.keys(this.parameters)) {
      if (name === 'router.weight') gradients[name] = result.dRouterWeight!;
      else if (name === 'router.bias') gradients[name] = result.dRouterBias!;
      else gradients[name] = result.experts[EXPERT_PARAMETERS[name]!]!;
    }
    return { dx: result.dx, gradients };
  }

  /** Frees the parameters. */
  dispose(): void {
    for (const parameter of Object.values(this.parameters)) parameter.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #run(x: Tensor, save: SaveMode): { y: Tensor; routing: Routing; saved?: MoeSaved } {
    if (this.parameters['router.weight']!.disposed)
      throw new MoeError('ERR_DISPOSED', 'layer: expected a live layer, got a disposed one');
    const { activation } = this.config;
    const result = moeForward({ x, router: this.#router(), experts: this.#experts(), activation, save });
    return { ...result, routing: result.routing as Routing };
  }

  #router(): RouterParameters {
    const { bias: _, ...options } = this.config.router;
    return { ...options, weight: this.parameters['router.weight']!, bias: this.parameters['router.bias'] };
  }

  #experts(): Experts {
    return expertsByName(this.parameters) as Experts;
  }

  #checkParameters(): void {
    const { dtype, device } = this.config;
    const shapes = parameterShapes(this.config, 'experts.gate_up' in this.parameters);
    checkKeys('weights', this.parameters, Object.keys(shapes));
    for (const [name, shape] of Object.entries(shapes)) {
      const mayBeWide = name.startsWith('router.') || name.endsWith('_bias');
      const allowed: readonly DType[] = mayBeWide && dtype !== 'float32' ? [dtype, 'float32'] : [dtype];
      const value = checkTensor(`weights.${name}`, this.parameters[name], { dtype: allowed, shape });
      if (value.device !== device) {
        throw badArgument('ERR_DEVICE_MISMATCH', `weights.${name}`, `device ${device}`, value.device);
      }
    }
  }
}

function resolveConfig(config: MoELayerConfig): MoELayer['config'] {
  const keys = [
    'hidden',
    'intermediate',
    'experts',
    'topK',
    'router',
    'activation',
    'bias',
    'dtype',
    'device',
  ];
  checkKeys('config', config, keys);
  const experts = checkInteger('config.experts', config.experts, 1);
  const topK = checkInteger('config.topK', config.topK, 1, experts);
  const router = config.router ?? {};
  checkKeys('config.router', router, [...ROUTER_KEYS.filter(key => key !== 'topK'), 'bias']);
  const { bias: routerBias = false, ...options } = router;
  resolveRouter('config.router', { ...options, topK }, experts);
  const dtype = checkDType('config.dtype', config.dtype ?? 'float32');
  if (dtype === 'int32')
    throw badArgument('ERR_DTYPE', 'config.dtype', `one of ${FLOAT_DTYPES.join(', ')}`, dtype);
  return Object.freeze({
    hidden: checkInteger('config.hidden', config.hidden, 1),
    intermediate: checkInteger('config.intermediate', config.intermediate, 1),
    experts,
    topK,
    router: { ...options, topK, bias: checkBoolean('config.router.bias', routerBias) },
    activation: checkActivation('config.activation', config.activation ?? 'swiglu'),
    bias: checkBoolean('config.bias', config.bias ?? false),
    dtype,
    device: config.device ?? 'cpu',
  });
}

type ParameterConfig = Required<
  Pick<MoELayerConfig, 'hidden' | 'intermediate' | 'experts' | 'activation' | 'bias'>
> & {
  router: { bias?: boolean };
};

/** Every parameter's shape, gate and up packed in one tensor or given apart. */
export function parameterShapes(config: ParameterConfig, packed: boolean): Record<string, number[]> {
  const { hidden: H, intermediate: I, experts: E, activation, bias } = config;
  const gated = isGated(activation);
  const ups = !gated ? ['up'] : packed ? ['gate_up'] : ['gate', 'up'];
  const width = gated && packed ? 2 * I : I;
  const shapes: Record<string, number[]> = { 'router.weight': [E, H] };
  if (config.router.bias) shapes['router.bias'] = [E];
  for (const name of ups) shapes[`experts.${name}`] = [E, width, H];
  shapes['experts.down'] = [E, H, I];
  if (bias) {
    for (const name of ups) shapes[`experts.${name}_bias`] = [E, width];
    shapes['experts.down_bias'] = [E, H];
  }
  return shapes;
}

function randomParameters(config: MoELayer['config'], seed: number): NamedTensors {
  const parameters: NamedTensors = {};
  const random = uniform(seed);
  for (const [name, shape] of Object.entries(parameterShapes(config, true))) {
    if (name.endsWith('bias')) {
      parameters[name] = zeros(shape, { dtype: config.dtype, device: config.device });
      continue;
    }
    const bound = 1 / Math.sqrt(shape.at(-1)!);
    const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
    for (let i = 0; i < values.length; i++) values[i] = (2 * random() - 1) * bound;
    parameters[name] = tensor(values, shape, { dtype: config.dtype, device: config.device });
  }
  return parameters;
}

/** mulberry32: a small seeded generator of numbers in [0, 1). */
function uniform(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

function expertsByName(named: NamedTensors): Partial<Experts> {
  const experts: Partial<Experts> = {};
  for (const [name, key] of Object.entries(EXPERT_PARAMETERS)) if (named[name]) experts[key] = named[name];
  return experts;
}
