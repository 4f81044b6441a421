// MoELayer: owns a layer's parameters, under the names models are published with, and runs it whole.

import { ACTIVATION_KEYS, type ActivationOptions } from './activation.ts';
import { checkBoolean, checkInteger, checkKeys, checkTensor } from './check.ts';
import type { DType } from './dtype.ts';
import { badArgument, MoeError } from './errors.ts';
import { type MoELayerConfig, parameterShapes, type ResolvedConfig, resolveConfig } from './layer-config.ts';
import { checkLayout, type Experts } from './ops/experts.ts';
import {
  type MoeForwardArgs,
  type MoeGradients,
  type MoeSaved,
  moeBackward,
  moeForward,
  type RouterParameters,
  type SaveMode,
} from './ops/moe.ts';
import { type RouterTensors, type Routing, routingTensors } from './ops/route.ts';
import type { SharedExpert } from './ops/shared.ts';
import { type Calls, recall } from './recall.ts';
import { ROUTE_CALL_KEYS, type RouteCall } from './router-run.ts';
import { ones, type Tensor, tensor, zeros } from './tensor.ts';

const LAYER_CALL_KEYS = ROUTE_CALL_KEYS.filter(key => key !== 'step');

/** A layer's parameters, or their gradients, by name: `router.weight`, `experts.gate_up`, `experts.down`, … */
export type NamedTensors = { [name: string]: Tensor };

type Group = 'router' | 'experts' | 'shared';
/** Published name → the argument of the ops that it is. */
const PARAMETERS: Readonly<Record<string, readonly [Group, string]>> = {
  'router.weight': ['router', 'weight'],
  'router.bias': ['router', 'bias'],
  'router.selection_bias': ['router', 'selectionBias'],
  'router.expert_scale': ['router', 'expertScale'],
  'router.noise_weight': ['router', 'noiseWeight'],
  'router.lora_a': ['router', 'loraA'],
  'router.lora_b': ['router', 'loraB'],
  'experts.gate_up': ['experts', 'gateUp'],
  'experts.gate': ['experts', 'gate'],
  'experts.up': ['experts', 'up'],
  'experts.down': ['experts', 'down'],
  'experts.gate_up_bias': ['experts', 'gateUpBias'],
  'experts.gate_bias': ['experts', 'gateBias'],
  'experts.up_bias': ['experts', 'upBias'],
  'experts.down_bias': ['experts', 'downBias'],
  'experts.gate_up.lora_a': ['experts', 'gateUpLoraA'],
  'experts.gate_up.lora_b': ['experts', 'gateUpLoraB'],
  'experts.gate.lora_a': ['experts', 'gateLoraA'],
  'experts.gate.lora_b': ['experts', 'gateLoraB'],
  'experts.up.lora_a': ['experts', 'upLoraA'],
  'experts.up.lora_b': ['experts', 'upLoraB'],
  'experts.down.lora_a': ['experts', 'downLoraA'],
  'experts.down.lora_b': ['experts', 'downLoraB'],
  'shared.gate': ['shared', 'gate'],
  'shared.up': ['shared', 'up'],
  'shared.down': ['shared', 'down'],
  'shared.router': ['shared', 'router'],
  'shared.weights': ['shared', 'weights'],
};

type FixedArgs = Omit<MoeForwardArgs, 'x' | 'save' | 'router'> & { readonly router: RouterParameters };
type TrainForward = { y: Tensor; routing: Routing; saved: MoeSaved };
type BackwardOptions = { dLogits?: Tensor; dNoiseLogits?: Tensor; accumulateInto?: NamedTensors };
type BackwardCall = { saved: MoeSaved; dy: Tensor; options: BackwardOptions };

export interface MoELayerBackward {
  /** [T, H] */
  readonly dx: Tensor;
  /**
   * One for each parameter that has a gradient, under its name; those of `accumulateInto` where given. The selection bias has
   * none, nor have weights and biases beside low-rank pairs: all of the experts', or the router's.
   */
  readonly gradients: NamedTensors;
}

/**
 * A Mixture-of-Experts layer that owns its parameters.
 *
 * Parameters are named and shaped as models publish them: `router.weight` [E', H], `router.bias` [E'],
 * `router.selection_bias` float32 [E'], `router.expert_scale` [E], `router.noise_weight` [E', H], `experts.gate_up` [E, 2I, H]
 * or `experts.gate` and `experts.up` [E, I, H], `experts.down` [E, H, I], `experts.gate_up_bias` [E, 2I] (`gate_bias`, `up_bias`
 * [E, I]), `experts.down_bias` [E, H], `shared.gate` and `shared.up` [Is, H], `shared.down` [H, Is], `shared.router` [1, H],
 * `shared.weights` [1]. Experts' matrices `transposed` have their last two dimensions exchanged; n shared experts have
 * [n, Is, H], [n, H, Is], [n, H], [n]. Low-rank pairs are `router.lora_a` [r, H], `router.lora_b` [E', r], `experts.down.lora_a`
 * [E, r, I], `experts.down.lora_b` [E, H, r], and so on.
 */
export class MoELayer implements Disposable {
  readonly config: ResolvedConfig;
  readonly parameters: Readonly<NamedTensors>;
  readonly #args: FixedArgs;
  readonly #calls = { forward: [] as Calls, forwardTrain: [] as Calls, backward: [] as Calls };

  /**
   * @param weights every parameter by name; the layer owns them from now on. Without it, weights are drawn from
   *   U(±1/√fan-in) with `seed`, biases and the B of low-rank pairs are zero, scales and the shared experts' weights one.
   * @throws MoeError ERR_INVALID_ARGUMENT, ERR_SHAPE, ERR_DTYPE, ERR_DEVICE_MISMATCH, ERR_UNSUPPORTED
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
    this.#args = this.#fixedArgs();
  }

  /**
   * Inference: y [T, H] of x [T, H], without noise.
   * @param call what the router needs beside x: `indices` (hash), `mask` (padding), `sequenceLength`
   */
  forward(x: Tensor, call: Omit<RouteCall, 'step'> = {}): Tensor {
    const { parameters } = this;
    return recall(this.#calls.forward, { x, call, parameters }, args => this.#forwardAnew(args));
  }

  #forwardAnew({ x, call }: { x: Tensor; call: Omit<RouteCall, 'step'> }): Tensor {
    checkKeys('call', call, LAYER_CALL_KEYS);
    const { y, routing } = this.#run(x, 'nothing', call);
    for (const part of routingTensors(routing)) part.dispose();
    return y;
  }

  /**
   * Forward for training. `saved` goes to {@link backward}, then `saved.dispose()` frees it.
   * @param options.recompute keep only input and routing, and compute the pre-activation again in the backward pass
   * @param options.step turns the router's noise on; the rest as in {@link forward}
   */
  forwardTrain(x: Tensor, options: { recompute?: boolean } & RouteCall = {}): TrainForward {
    const { parameters } = this;
    const args = { x, options, parameters };
    return recall(this.#calls.forwardTrain, args, given => this.#forwardTrainAnew(given));
  }

  #forwardTrainAnew({
    x,
    options,
  }: {
    x: Tensor;
    options: { recompute?: boolean } & RouteCall;
  }): TrainForward {
    checkKeys('options', options, ['recompute', ...ROUTE_CALL_KEYS]);
    const { recompute = false, ...call } = options;
    checkBoolean('options.recompute', recompute);
    const { y, routing, saved } = this.#run(x, recompute ? 'recompute' : 'activations', call);
    return { y, routing, saved: saved! };
  }

  /**
   * Gradients of everything.
   * @param dy [T, H], the gradient of y
   * @param options.dLogits float32 [T, E'], a further gradient of `routing.logits` (a load-balancing loss)
   * @param options.dNoiseLogits float32 [T, E'], one of `routing.noiseLogits` (the load loss)
   * @param options.accumulateInto gradients by parameter name that are added to instead of being made anew
   */
  backward(saved: MoeSaved, dy: Tensor, options: BackwardOptions = {}): MoELayerBackward {
    const { parameters } = this;
    const args = { saved, dy, options, parameters };
    return recall(this.#calls.backward, args, given => this.#backwardAnew(given));
  }

  #backwardAnew({ saved, dy, options }: BackwardCall): MoELayerBackward {
    checkKeys('options', options, ['dLogits', 'dNoiseLogits', 'accumulateInto']);
    const into = options.accumulateInto ?? {};
    const names = Object.keys(this.parameters).filter(name => !this.#isFrozen(name));
    checkKeys('accumulateInto', into, names);
    const accumulateInto: NamedTensors = {};
    for (const [name, tensor] of Object.entries(into)) accumulateInto[gradientArgument(name)] = tensor;
    const { dLogits, dNoiseLogits } = options;
    const result = moeBackward({ dy, saved, dLogits, dNoiseLogits, accumulateInto });
    result.dWeights.dispose();
    result.dLogits?.dispose();
    result.dNoiseLogits?.dispose();
    const gradients: NamedTensors = {};
    for (const name of names) {
      const gradient = gradientOf(result, name);
      if (gradient) gradients[name] = gradient;
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

  #run(x: Tensor, save: SaveMode, call: RouteCall): { y: Tensor; routing: Routing; saved?: MoeSaved } {
    if (this.parameters['router.weight']!.disposed) {
      throw new MoeError('ERR_DISPOSED', 'layer: expected a live layer, got a disposed one');
    }
    const { router } = this.config;
    if (router.hash !== (call.indices !== undefined)) {
      const [expected, got] = router.hash
        ? ['the experts of each token', 'undefined']
        : ['nothing', 'a value'];
      throw badArgument('ERR_INVALID_ARGUMENT', 'indices', `${expected}, router.hash: ${router.hash}`, got);
    }
    const said = Object.keys(call).length > 0;
    const result = moeForward({
      x,
      save,
      ...this.#args,
      ...(said && { router: { ...this.#args.router, ...call } }),
    });
    return { ...result, routing: result.routing as Routing };
  }

  /** What every call gives to the ops. */
  #fixedArgs(): FixedArgs {
    const { applyWeightTo, shared } = this.config;
    const activation: ActivationOptions = {};
    for (const key of ACTIVATION_KEYS) Object.assign(activation, { [key]: this.config[key] });
    return Object.freeze({
      ...{ applyWeightTo, ...activation },
      router: Object.freeze(this.#router()),
      experts: Object.freeze(this.#experts()),
      shared: shared && Object.freeze(this.#group<SharedExpert>('shared')),
    });
  }

  #experts(): Experts {
    const { gateUpLayout, transposed } = this.config;
    const loraScale = this.#loraScale('experts');
    return { ...this.#group<Experts>('experts'), gateUpLayout, transposed, loraScale };
  }

  /** What the low-rank pairs of a part are multiplied by; undefined where it has none. */
  #loraScale(group: Group): number | undefined {
    const { lora } = this.config;
    const adapted = lora?.on.some(side => (side === 'router' ? 'router' : 'experts') === group);
    return adapted ? lora!.alpha / lora!.rank : undefined;
  }

  /** Whether a parameter has no gradient: what only chooses experts, and what low-rank pairs adapt. */
  #isFrozen(name: string): boolean {
    if (name === 'router.selection_bias') return true;
    const [group] = PARAMETERS[name]!;
    if (this.#loraScale(group) === undefined || name.includes('.lora_')) return false;
    return group === 'experts' || name === 'router.weight' || name === 'router.bias';
  }

  #router(): RouterParameters {
    const {
      bias: _bias,
      selectionBias: _selectionBias,
      expertScale: _scale,
      hash: _hash,
      ...options
    } = this.config.router;
    return { ...options, ...this.#group<RouterTensors>('router'), loraScale: this.#loraScale('router') };
  }

  /** The parameters of one group, by their argument names. */
  #group<T>(group: Group): T {
    const arguments_: NamedTensors = {};
    for (const [name, parameter] of Object.entries(this.parameters)) {
      const [owner, argument] = PARAMETERS[name]!;
      if (owner === group) arguments_[argument] = parameter;
    }
    return arguments_ as T;
  }

  #checkParameters(): void {
    const { dtype, device } = this.config;
    const packed = 'experts.gate_up' in this.parameters;
    checkLayout('config.', this.config, packed);
    const shapes = parameterShapes(this.config, packed);
    checkKeys('weights', this.parameters, Object.keys(shapes));
    for (const [name, shape] of Object.entries(shapes)) {
      const allowed = allowedDTypes(name, dtype);
      const value = checkTensor(`weights.${name}`, this.parameters[name], { dtype: allowed, shape });
      if (value.device !== device) {
        throw badArgument('ERR_DEVICE_MISMATCH', `weights.${name}`, `device ${device}`, value.device);
      }
      if (DECIDES.includes(name)) checkNumbers(`weights.${name}`, value);
    }
  }
}

/** One NaN in these would decide every token's routing without a trace. */
const DECIDES = ['router.bias', 'router.selection_bias', 'router.expert_scale'];

function checkNumbers(name: string, vector: Tensor): void {
  using values = vector.cast('float32');
  const index = values.dataSync().findIndex(Number.isNaN);
  if (index >= 0) throw badArgument('ERR_INVALID_ARGUMENT', name, 'numbers', `NaN at ${index}`);
}

/** What routes and what is added once a row may be kept in float32 beside narrower weights. */
function allowedDTypes(name: string, dtype: DType): readonly DType[] {
  if (name === 'router.selection_bias') return ['float32'];
  const mayBeWide = /^(router|shared\.router|shared\.weights)|_bias$|\.lora_[ab]$/.test(name);
  return mayBeWide && dtype !== 'float32' ? [dtype, 'float32'] : [dtype];
}

/** `router.weight` → `routerWeight`, `shared.up` → `sharedUp`; experts have their argument's name. */
function gradientArgument(name: string): string {
  const [group, argument] = PARAMETERS[name]!;
  return group === 'experts' ? argument : `${group}${capitalised(argument)}`;
}

/** Undefined for a frozen parameter. */
function gradientOf(result: MoeGradients, name: string): Tensor | undefined {
  const [group, argument] = PARAMETERS[name]!;
  const owner = group === 'router' ? result : result[group];
  const key = group === 'router' ? `dRouter${capitalised(argument)}` : argument;
  return (owner as unknown as NamedTensors)[key];
}

function capitalised(name: string): string {
  return `${name[0]!.toUpperCase()}${name.slice(1)}`;
}

function randomParameters(config: ResolvedConfig, seed: number): NamedTensors {
  const { device } = config;
  const parameters: NamedTensors = {};
  const random = uniform(seed);
  for (const [name, shape] of Object.entries(parameterShapes(config, true))) {
    const dtype = name === 'router.selection_bias' ? 'float32' : config.dtype;
    if (/bias$|lora_b$|^router\.noise_weight$/.test(name)) {
      parameters[name] = zeros(shape, { dtype, device });
    } else if (name.endsWith('scale') || name === 'shared.weights') {
      parameters[name] = ones(shape, { dtype, device });
    } else {
      const bound = 1 / Math.sqrt(fanIn(name, shape, config));
      const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
      for (let i = 0; i < values.length; i++) values[i] = (2 * random() - 1) * bound;
      parameters[name] = tensor(values, shape, { dtype, device });
    }
  }
  return parameters;
}

/** Columns of a matrix as it multiplies, whatever its layout. */
function fanIn(name: string, shape: readonly number[], { transposed }: ResolvedConfig): number {
  const turned = transposed && name.startsWith('experts.') && !name.includes('.lora_');
  return shape.at(turned ? -2 : -1)!;
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
