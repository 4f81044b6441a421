// The experts' parameters, in every published layout, and the checks that both directions share.

import { type Activation, isGated } from '../activation.ts';
import { checkBoolean, checkFinite, checkKeys, checkOneOf, checkTensor } from '../check.ts';
import type { FloatDType } from '../dtype.ts';
import { badArgument } from '../errors.ts';
import type { Tensor } from '../tensor.ts';
import type { OpArgs } from './call.ts';

export const GATE_UP_LAYOUTS = ['concatenated', 'interleaved'] as const;
/**
 * How gate and up share the rows of a packed matrix: all gate rows first, or alternating, g0, u0, g1, u1, … (gpt-oss; ONNX
 * Runtime's `swiglu_fusion=1`). Its bias, its low-rank pair's B and pre-activation rows are arranged likewise.
 */
export type GateUpLayout = (typeof GATE_UP_LAYOUTS)[number];

/** How the experts' matrices lie in memory. Kernels read and write any layout in place. */
export interface ExpertLayout {
  /** Default `concatenated`. */
  gateUpLayout?: GateUpLayout;
  /** Matrices are stored [in, out] (Llama 4, gpt-oss): gateUp [E, H, 2I], gate and up [E, H, I], down [E, I, H]. Default false. */
  transposed?: boolean;
}

/**
 * Parameters of E experts, weights of one dtype. Gated experts give `gateUp`, or `gate` and `up`; ungated ones give `up` alone.
 * Biases come in the same arrangement, float32 or the weights' dtype.
 *
 * A low-rank pair beside a matrix W makes its product W·x + loraScale · B·(A·x) (LoRA, arXiv 2106.09685); W + B·A is never
 * formed. Any matrix may have one, of its own rank r, float32 or of the weights' dtype. Where any has one, weights and biases
 * are frozen: the pairs alone have gradients.
 */
export interface Experts extends ExpertLayout {
  /** [E, 2I, H] */
  gateUp?: Tensor;
  /** [E, I, H] */
  gate?: Tensor;
  /** [E, I, H] */
  up?: Tensor;
  /** [E, H, I] */
  down: Tensor;
  /** [E, 2I] */
  gateUpBias?: Tensor;
  /** [E, I] */
  gateBias?: Tensor;
  /** [E, I], gateBias's dtype */
  upBias?: Tensor;
  /** [E, H] */
  downBias?: Tensor;
  /** [E, r, H] */
  gateUpLoraA?: Tensor;
  /** [E, 2I, r] */
  gateUpLoraB?: Tensor;
  /** [E, r, H] */
  gateLoraA?: Tensor;
  /** [E, I, r] */
  gateLoraB?: Tensor;
  /** [E, r, H] */
  upLoraA?: Tensor;
  /** [E, I, r] */
  upLoraB?: Tensor;
  /** [E, r, I] */
  downLoraA?: Tensor;
  /** [E, H, r] */
  downLoraB?: Tensor;
  /** alpha / rank, of every pair. Default 1. */
  loraScale?: number;
}

const PROJECTIONS = ['gateUp', 'gate', 'up', 'down'] as const;
type Projection = (typeof PROJECTIONS)[number];
const SUFFIXES = ['', 'Bias', 'LoraA', 'LoraB'] as const;

export type ExpertName = `${Projection}${(typeof SUFFIXES)[number]}`;
/** Names of the experts' parameters, and of their gradients. */
export const EXPERT_NAMES: readonly ExpertName[] = SUFFIXES.flatMap(suffix =>
  PROJECTIONS.map(projection => `${projection}${suffix}` as const),
);

export interface ExpertDims {
  readonly experts: number;
  readonly hidden: number;
  readonly intermediate: number;
}

/** The tensors among the experts' parameters. */
export function expertTensors(experts: Experts): { [name in ExpertName]?: Tensor } {
  const tensors: { [name in ExpertName]?: Tensor } = {};
  for (const name of EXPERT_NAMES) if (experts[name] !== undefined) tensors[name] = experts[name];
  return tensors;
}

/** The experts as the addon reads them. */
export function nativeExperts(experts: Experts): OpArgs {
  return {
    ...expertTensors(experts),
    interleaved: experts.gateUpLayout === 'interleaved',
    transposed: experts.transposed ?? false,
    loraScale: experts.loraScale ?? 1,
  };
}

/** Those of the given parameters that have gradients: low-rank pairs alone, where there are any. */
export function trainedNames(experts: Experts): readonly ExpertName[] {
  const given = EXPERT_NAMES.filter(name => experts[name] !== undefined);
  const pairs = given.filter(isPaired);
  return pairs.length > 0 ? pairs : given;
}

const isPaired = (name: ExpertName) => name.endsWith('LoraA') || name.endsWith('LoraB');

/** Checks the experts against each other, the activation, and x's dtype and width; returns their dimensions. */
export function checkExperts(
  experts: Experts,
  activation: Activation,
  dtype: FloatDType,
  hidden: number,
): ExpertDims {
  checkKeys('experts', experts, [...EXPERT_NAMES, 'gateUpLayout', 'transposed', 'loraScale']);
  const packed = experts.gateUp !== undefined;
  const ups: Projection[] = !isGated(activation) ? ['up'] : packed ? ['gateUp'] : ['gate', 'up'];
  checkNames(experts, ups, activation);
  checkLayout('experts.', experts, ups[0] === 'gateUp');
  checkScale(experts);
  const downShape = experts.transposed ? [null, null, hidden] : [null, hidden, null];
  const { shape } = checkTensor('experts.down', experts.down, { dtype, shape: downShape });
  const count = shape[0]!;
  if (count < 1) throw badArgument('ERR_SHAPE', 'experts.down', 'at least one expert', '0');
  const intermediate = shape[experts.transposed ? 1 : 2]!;
  const upWidth = packed ? 2 * intermediate : intermediate;
  for (const up of ups) checkProjection(experts, up, dtype, [count, upWidth, hidden]);
  checkProjection(experts, 'down', dtype, [count, hidden, intermediate]);
  if (experts.gateBias && experts.upBias) {
    checkTensor('experts.upBias', experts.upBias, { dtype: experts.gateBias.dtype });
  }
  return { experts: count, hidden, intermediate };
}

/** Everything that the activation needs is given, and nothing else. */
function checkNames(experts: Experts, ups: readonly Projection[], activation: Activation): void {
  const given = EXPERT_NAMES.filter(name => experts[name] !== undefined);
  for (const name of [...ups, 'down'] as const) {
    if (!given.includes(name)) {
      const expected = `a tensor, for ${activation}`;
      throw badArgument('ERR_INVALID_ARGUMENT', `experts.${name}`, expected, 'undefined');
    }
  }
  const allowed = [...ups, 'down' as const].flatMap(name =>
    SUFFIXES.map(suffix => `${name}${suffix}` as const),
  );
  for (const name of given) {
    if (!allowed.includes(name)) {
      const expected = `only ${[...ups, 'down'].join(', ')}, their biases and low-rank pairs, for ${activation}`;
      throw badArgument('ERR_INVALID_ARGUMENT', 'experts', expected, name);
    }
  }
  const missing = ups.filter(name => !given.includes(`${name}Bias`));
  if (missing.length > 0 && missing.length < ups.length) {
    const expected = 'a bias beside the other half’s';
    throw badArgument('ERR_INVALID_ARGUMENT', `experts.${missing[0]}Bias`, expected, 'undefined');
  }
}

/**
 * A layout that makes sense.
 * @param prefix of the options' names in messages
 * @param packed whether gate and up are one tensor
 */
export function checkLayout(prefix: string, layout: ExpertLayout, packed: boolean): void {
  const { gateUpLayout = 'concatenated', transposed = false } = layout;
  checkOneOf(`${prefix}gateUpLayout`, gateUpLayout, GATE_UP_LAYOUTS);
  checkBoolean(`${prefix}transposed`, transposed);
  if (gateUpLayout === 'interleaved' && !packed) {
    const expected = 'concatenated unless gate and up are one tensor';
    throw badArgument('ERR_INVALID_ARGUMENT', `${prefix}gateUpLayout`, expected, gateUpLayout);
  }
}

function checkScale(experts: Experts): void {
  if (experts.loraScale === undefined) return;
  checkFinite('experts.loraScale', experts.loraScale);
  if (EXPERT_NAMES.some(name => isPaired(name) && experts[name] !== undefined)) return;
  throw badArgument('ERR_INVALID_ARGUMENT', 'experts.loraScale', 'low-rank pairs beside it', 'none');
}

/** A projection's weight [E, out, in], in its layout, and what is given beside it. */
function checkProjection(
  experts: Experts,
  name: Projection,
  dtype: FloatDType,
  [count, outputs, inputs]: readonly [number, number, number],
): void {
  const shape = experts.transposed ? [count, inputs, outputs] : [count, outputs, inputs];
  checkTensor(`experts.${name}`, experts[name], { dtype, shape });
  const beside = { dtype: ['float32', dtype] as const };
  const check = (suffix: 'Bias' | 'LoraA' | 'LoraB', dims: readonly (number | null)[]) => {
    const tensor = experts[`${name}${suffix}`];
    return tensor && checkTensor(`experts.${name}${suffix}`, tensor, { ...beside, shape: dims });
  };
  check('Bias', [count, outputs]);
  const a = check('LoraA', [count, null, inputs]);
  const b = experts[`${name}LoraB`];
  if ((a === undefined) !== (b === undefined)) {
    const [missing, other] = a ? ['LoraB', 'LoraA'] : ['LoraA', 'LoraB'];
    const expected = `a tensor beside ${name}${other}`;
    throw badArgument('ERR_INVALID_ARGUMENT', `experts.${name}${missing}`, expected, 'undefined');
  }
  const rank = a?.shape[1];
  if (rank === 0) throw badArgument('ERR_SHAPE', `experts.${name}LoraA`, 'a rank of at least 1', '0');
  check('LoraB', [count, outputs, rank ?? null]);
}
