// What a layer is: its configuration, checked and completed, and the parameters that follow from it.

import {
  ACTIVATION_KEYS,
  type Activation,
  type ActivationOptions,
  isGated,
  resolveActivation,
} from './activation.ts';
import { checkBoolean, checkFinite, checkInteger, checkKeys, checkOneOf } from './check.ts';
import { checkDType, describe, FLOAT_DTYPES, type FloatDType } from './dtype.ts';
import { badArgument } from './errors.ts';
import { checkLayout, type ExpertLayout } from './ops/experts.ts';
import { WEIGHT_SIDES, type WeightSide } from './ops/moe.ts';
import { ROUTER_KEYS, type RouterOptions, resolveRouter, withoutSelectionBias } from './router.ts';
import { checkDevice, type DeviceName } from './tensor.ts';

/**
 * A layer's router: its options, and which parameters it has beside its weight. With `noisyTopK` noise it has
 * `router.noise_weight` [E', H].
 */
export type LayerRouter = Omit<RouterOptions, 'topK' | 'identityExperts'> & {
  /** `router.bias` [E'], added to the logits. Default false. */
  bias?: boolean;
  /** `router.selection_bias` [E'], added to the scores when choosing. Default false. */
  selectionBias?: boolean;
  /** `router.expert_scale` [E], multiplies the weights. Default false. */
  expertScale?: boolean;
  /** Every call gives the experts of each token as `indices`; the router only weighs them. Default false. */
  hash?: boolean;
};

export const SHARED_GATES = ['sigmoid', 'weights'] as const;
/** What weighs a layer's shared experts: σ(x · shared.routerᵀ), or learnt scalars. */
export type SharedGate = (typeof SHARED_GATES)[number];

/** Experts that every token visits, beside those it is routed to. */
export interface LayerShared {
  /** Is, the width of one */
  intermediate: number;
  /** n of them, in matrices with a dimension more. Default: one, in matrices without. */
  count?: number;
  /** Default: their outputs are added as they are. */
  gate?: SharedGate;
}

export const LORA_SIDES = ['router', 'gateUp', 'down'] as const;
/** What a low-rank pair is put beside: the router's weight, gate and up (ungated: up), down. */
export type LoraSide = (typeof LORA_SIDES)[number];

/** Low-rank pairs (LoRA, arXiv 2106.09685), beside which what they adapt is frozen. */
export interface LayerLora {
  /** r */
  rank: number;
  /** Products of pairs are multiplied by alpha / rank. Default: rank. */
  alpha?: number;
  on: readonly LoraSide[];
}

export interface MoELayerConfig extends ActivationOptions, ExpertLayout {
  /** H */
  hidden: number;
  /** I, the width of one expert */
  intermediate: number;
  /** E */
  experts: number;
  /** K; given unless experts choose */
  topK?: number;
  /** So many further experts, ids E, E+1, …, return their input unchanged. Default 0. */
  identityExperts?: number;
  /** Default: softmax over all experts. */
  router?: LayerRouter;
  /** Default `swiglu`. */
  activation?: Activation;
  /** Biases on the experts' projections. Default false. */
  bias?: boolean;
  /** Whether the routing weight multiplies the expert's output (default) or its input. */
  applyWeightTo?: WeightSide;
  shared?: LayerShared;
  lora?: LayerLora;
  /** dtype of x, y and the parameters. Default float32. */
  dtype?: FloatDType;
  device?: DeviceName;
}

type ParameterFlag = 'bias' | 'selectionBias' | 'expertScale';
const PARAMETER_FLAGS: readonly ParameterFlag[] = ['bias', 'selectionBias', 'expertScale'];
const ROUTER_FLAGS = [...PARAMETER_FLAGS, 'hash'] as const;

/** {@link MoELayerConfig} with the defaults filled in; activation parameters stay as given. */
export type ResolvedConfig = Readonly<
  Required<
    Omit<MoELayerConfig, 'router' | 'shared' | 'lora' | Exclude<keyof ActivationOptions, 'activation'>>
  > &
    ActivationOptions & {
      router: RouterOptions & Readonly<Record<(typeof ROUTER_FLAGS)[number], boolean>>;
      shared: Readonly<LayerShared> | undefined;
      lora: Readonly<Required<LayerLora>> | undefined;
    }
>;

const KEYS = [
  ...['hidden', 'intermediate', 'experts', 'topK', 'identityExperts', 'router', 'bias', 'applyWeightTo'],
  ...['shared', 'lora', 'gateUpLayout', 'transposed', 'dtype', 'device', ...ACTIVATION_KEYS],
];
const ROUTER_OPTION_KEYS = ROUTER_KEYS.filter(key => key !== 'topK' && key !== 'identityExperts');

/**
 * Checks a configuration and fills in its defaults.
 * @param name what messages call it
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_DTYPE, ERR_UNSUPPORTED for a device that is not there
 */
export function resolveConfig(config: MoELayerConfig, name = 'config'): ResolvedConfig {
  checkKeys(name, config, KEYS);
  const experts = checkInteger(`${name}.experts`, config.experts, 1);
  const identityExperts = checkInteger(`${name}.identityExperts`, config.identityExperts ?? 0, 0);
  const router = resolveLayerRouter(name, config, experts + identityExperts);
  const dtype = checkDType(`${name}.dtype`, config.dtype ?? 'float32');
  if (dtype === 'int32') {
    throw badArgument('ERR_DTYPE', `${name}.dtype`, `one of ${FLOAT_DTYPES.join(', ')}`, dtype);
  }
  checkDevice(`${name}.device`, config.device);
  const given = Object.fromEntries(ACTIVATION_KEYS.map(key => [key, config[key]])) as ActivationOptions;
  const { activation } = resolveActivation(`${name}.`, given, 'swiglu');
  const applyWeightTo = config.applyWeightTo ?? 'output';
  checkLayout(`${name}.`, config, isGated(activation));
  return Object.freeze({
    hidden: checkInteger(`${name}.hidden`, config.hidden, 1),
    intermediate: checkInteger(`${name}.intermediate`, config.intermediate, 1),
    experts,
    topK: router.topK,
    identityExperts,
    router: router.options,
    ...given,
    activation,
    bias: checkBoolean(`${name}.bias`, config.bias ?? false),
    applyWeightTo: checkOneOf(`${name}.applyWeightTo`, applyWeightTo, WEIGHT_SIDES),
    shared: config.shared === undefined ? undefined : resolveShared(`${name}.shared`, config.shared),
    lora: config.lora === undefined ? undefined : resolveLora(`${name}.lora`, config.lora),
    gateUpLayout: config.gateUpLayout ?? 'concatenated',
    transposed: config.transposed ?? false,
    dtype,
    device: config.device ?? 'cpu',
  });
}

/** `topK` and `identityExperts` are the layer's own, and its messages say so. */
function resolveLayerRouter(
  name: string,
  config: MoELayerConfig,
  logits: number,
): { topK: number; options: ResolvedConfig['router'] } {
  const { router = {}, topK, identityExperts = 0 } = config;
  checkKeys(`${name}.router`, router, [...ROUTER_OPTION_KEYS, ...ROUTER_FLAGS]);
  const { bias = false, selectionBias = false, expertScale = false, hash = false, ...rest } = router;
  const flags = { bias, selectionBias, expertScale, hash };
  for (const flag of ROUTER_FLAGS) checkBoolean(`${name}.router.${flag}`, flags[flag]);
  if (rest.expertChoice === undefined) checkInteger(`${name}.topK`, topK, 1, logits);
  const options: RouterOptions = { ...rest, ...(topK !== undefined && { topK }), identityExperts };
  const resolved = resolveRouter(`${name}.router`, options, logits, hash);
  const excluded = withoutSelectionBias(resolved);
  if (selectionBias && excluded) {
    const expected = `false with ${hash ? 'hash' : excluded}`;
    throw badArgument('ERR_INVALID_ARGUMENT', `${name}.router.selectionBias`, expected, 'true');
  }
  return { topK: resolved.topK, options: frozenCopy({ ...options, ...flags }) };
}

/** Of options within options: what the caller changes later changes no layer. */
function frozenCopy<T extends object>(options: T): Readonly<T> {
  const copy = structuredClone(options);
  for (const part of Object.values(copy)) Object.freeze(part);
  return Object.freeze(copy);
}

function resolveShared(name: string, shared: LayerShared): Readonly<LayerShared> {
  checkKeys(name, shared, ['intermediate', 'count', 'gate']);
  const { intermediate, count, gate } = shared;
  return Object.freeze({
    intermediate: checkInteger(`${name}.intermediate`, intermediate, 1),
    ...(count !== undefined && { count: checkInteger(`${name}.count`, count, 1) }),
    ...(gate !== undefined && { gate: checkOneOf(`${name}.gate`, gate, SHARED_GATES) }),
  });
}

function resolveLora(name: string, lora: LayerLora): Readonly<Required<LayerLora>> {
  checkKeys(name, lora, ['rank', 'alpha', 'on']);
  const rank = checkInteger(`${name}.rank`, lora.rank, 1);
  const alpha = checkFinite(`${name}.alpha`, lora.alpha ?? rank);
  const sides: unknown = lora.on;
  if (!Array.isArray(sides) || sides.length === 0 || new Set(sides).size < sides.length) {
    const expected = `some of ${LORA_SIDES.join(', ')}, each once`;
    throw badArgument('ERR_INVALID_ARGUMENT', `${name}.on`, expected, describe(sides));
  }
  const on = sides.map((side, i) => checkOneOf(`${name}.on[${i}]`, side, LORA_SIDES));
  return Object.freeze({ rank, alpha, on: Object.freeze(on) });
}

/** What of a configuration decides its parameters. */
export type ParameterConfig = Pick<MoELayerConfig, 'hidden' | 'intermediate' | 'experts' | 'transposed'> & {
  readonly activation: Activation;
  readonly bias: boolean;
  readonly identityExperts?: number;
  readonly router: { readonly [flag in ParameterFlag]?: boolean } & Pick<RouterOptions, 'noise'>;
  readonly shared?: MoELayerConfig['shared'] | undefined;
  readonly lora?: MoELayerConfig['lora'] | undefined;
};

type Shapes = Record<string, number[]>;

/** Every parameter's shape by its published name, gate and up packed in one tensor or given apart. */
export function parameterShapes(config: ParameterConfig, packed: boolean): Shapes {
  return { ...routerShapes(config), ...expertShapes(config, packed), ...sharedShapes(config) };
}

function routerShapes(config: ParameterConfig): Shapes {
  const { hidden: H, experts: E, router, lora } = config;
  const logits = E + (config.identityExperts ?? 0);
  const shapes: Shapes = { 'router.weight': [logits, H] };
  if (router.bias) shapes['router.bias'] = [logits];
  if (router.selectionBias) shapes['router.selection_bias'] = [logits];
  if (router.expertScale) shapes['router.expert_scale'] = [E];
  if (router.noise?.kind === 'noisyTopK') shapes['router.noise_weight'] = [logits, H];
  if (lora?.on.includes('router')) {
    shapes['router.lora_a'] = [lora.rank, H];
    shapes['router.lora_b'] = [logits, lora.rank];
  }
  return shapes;
}

function expertShapes(config: ParameterConfig, packed: boolean): Shapes {
  const { hidden: H, intermediate: I, experts: E, activation, bias, transposed, lora } = config;
  const gated = isGated(activation);
  const ups = !gated ? ['up'] : packed ? ['gate_up'] : ['gate', 'up'];
  const width = gated && packed ? 2 * I : I;
  const projections: [name: string, outputs: number, inputs: number, side: LoraSide][] = [
    ...ups.map((name): [string, number, number, LoraSide] => [name, width, H, 'gateUp']),
    ['down', H, I, 'down'],
  ];
  const shapes: Shapes = {};
  for (const [name, outputs, inputs] of projections) {
    shapes[`experts.${name}`] = transposed ? [E, inputs, outputs] : [E, outputs, inputs];
  }
  for (const [name, outputs, inputs, side] of projections) {
    if (bias) shapes[`experts.${name}_bias`] = [E, outputs];
    if (!lora?.on.includes(side)) continue;
    shapes[`experts.${name}.lora_a`] = [E, lora.rank, inputs];
    shapes[`experts.${name}.lora_b`] = [E, outputs, lora.rank];
  }
  return shapes;
}

function sharedShapes({ hidden: H, activation, shared }: ParameterConfig): Shapes {
  if (!shared) return {};
  const { intermediate: Is, count, gate } = shared;
  const several = count === undefined ? [] : [count];
  const shapes: Shapes = {};
  if (isGated(activation)) shapes['shared.gate'] = [...several, Is, H];
  shapes['shared.up'] = [...several, Is, H];
  shapes['shared.down'] = [...several, H, Is];
  if (gate === 'sigmoid') shapes['shared.router'] = [count ?? 1, H];
  if (gate === 'weights') shapes['shared.weights'] = [count ?? 1];
  return shapes;
}
