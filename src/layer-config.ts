// What a layer is: its configuration, checked and completed, and the parameters that follow from it.

import {
  ACTIVATION_KEYS,
  type Activation,
  type ActivationOptions,
  isGated,
  resolveActivation,
} from './activation.ts';
import { checkBoolean, checkInteger, checkKeys, checkOneOf } from './check.ts';
import { checkDType, FLOAT_DTYPES, type FloatDType } from './dtype.ts';
import { badArgument } from './errors.ts';
import { WEIGHT_SIDES, type WeightSide } from './ops/moe.ts';
import { ROUTER_KEYS, type RouterOptions, resolveRouter } from './router.ts';
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

export interface MoELayerConfig extends ActivationOptions {
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
  /** A shared expert of this width, with `gate: 'sigmoid'` weighed by σ(x · shared.routerᵀ). */
  shared?: { intermediate: number; gate?: 'sigmoid' };
  /** dtype of x, y and the parameters. Default float32. */
  dtype?: FloatDType;
  device?: DeviceName;
}

type ParameterFlag = 'bias' | 'selectionBias' | 'expertScale';
const PARAMETER_FLAGS: readonly ParameterFlag[] = ['bias', 'selectionBias', 'expertScale'];
const ROUTER_FLAGS = [...PARAMETER_FLAGS, 'hash'] as const;

/** {@link MoELayerConfig} with the defaults filled in; activation parameters stay as given. */
export type ResolvedConfig = Readonly<
  Required<Omit<MoELayerConfig, 'router' | 'shared' | Exclude<keyof ActivationOptions, 'activation'>>> &
    ActivationOptions & {
      router: RouterOptions & Readonly<Record<(typeof ROUTER_FLAGS)[number], boolean>>;
      shared: { readonly intermediate: number; readonly gate?: 'sigmoid' } | undefined;
    }
>;

const KEYS = [
  ...['hidden', 'intermediate', 'experts', 'topK', 'identityExperts', 'router', 'bias', 'applyWeightTo'],
  ...['shared', 'dtype', 'device', ...ACTIVATION_KEYS],
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
  const excluded =
    resolved.score === 'sparsemixer'
      ? 'sparsemixer'
      : hash
        ? 'hash'
        : resolved.choice === 'all' && 'expertChoice';
  if (selectionBias && excluded) {
    const expected = `false with ${excluded}`;
    throw badArgument('ERR_INVALID_ARGUMENT', `${name}.router.selectionBias`, expected, 'true');
  }
  return { topK: resolved.topK, options: { ...options, ...flags } };
}

function resolveShared(
  name: string,
  shared: NonNullable<MoELayerConfig['shared']>,
): NonNullable<ResolvedConfig['shared']> {
  checkKeys(name, shared, ['intermediate', 'gate']);
  if (shared.gate !== undefined) checkOneOf(`${name}.gate`, shared.gate, ['sigmoid']);
  const intermediate = checkInteger(`${name}.intermediate`, shared.intermediate, 1);
  return { intermediate, ...(shared.gate && { gate: shared.gate }) };
}

/** What of a configuration decides its parameters. */
export type ParameterConfig = Pick<MoELayerConfig, 'hidden' | 'intermediate' | 'experts'> & {
  readonly activation: Activation;
  readonly bias: boolean;
  readonly identityExperts?: number;
  readonly router: { readonly [flag in ParameterFlag]?: boolean } & Pick<RouterOptions, 'noise'>;
  readonly shared?: MoELayerConfig['shared'] | undefined;
};

/** Every parameter's shape by its published name, gate and up packed in one tensor or given apart. */
export function parameterShapes(config: ParameterConfig, packed: boolean): Record<string, number[]> {
  const { hidden: H, intermediate: I, experts: E, activation, bias, router, shared } = config;
  const logits = E + (config.identityExperts ?? 0);
  const gated = isGated(activation);
  const ups = !gated ? ['up'] : packed ? ['gate_up'] : ['gate', 'up'];
  const width = gated && packed ? 2 * I : I;
  const shapes: Record<string, number[]> = { 'router.weight': [logits, H] };
  if (router.bias) shapes['router.bias'] = [logits];
  if (router.selectionBias) shapes['router.selection_bias'] = [logits];
  if (router.expertScale) shapes['router.expert_scale'] = [E];
  if (router.noise?.kind === 'noisyTopK') shapes['router.noise_weight'] = [logits, H];
  for (const name of ups) shapes[`experts.${name}`] = [E, width, H];
  shapes['experts.down'] = [E, H, I];
  if (bias) {
    for (const name of ups) shapes[`experts.${name}_bias`] = [E, width];
    shapes['experts.down_bias'] = [E, H];
  }
  if (shared) {
    if (gated) shapes['shared.gate'] = [shared.intermediate, H];
    shapes['shared.up'] = [shared.intermediate, H];
    shapes['shared.down'] = [H, shared.intermediate];
    if (shared.gate) shapes['shared.router'] = [1, H];
  }
  return shapes;
}
