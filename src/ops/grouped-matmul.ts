// Grouped matrix products over ragged groups of rows: forward, dgrad and wgrad, with the activation in the epilogue.

import {
  ACTIVATION_KEYS,
  type Activation,
  type ActivationOptions,
  isGated,
  nativeActivation,
  resolveActivation,
} from '../activation.ts';
import { checkBoolean, checkKeys, checkOptionalTensor, checkSameDevice, checkTensor } from '../check.ts';
import { type DType, FLOAT_DTYPES } from '../dtype.ts';
import { badArgument } from '../errors.ts';
import { type Calls, recall } from '../recall.ts';
import { empty, type Tensor } from '../tensor.ts';
import { disposeOnError, enqueue } from './call.ts';
import { checkLayout, type ExpertLayout } from './experts.ts';
import { gradient } from './gradient.ts';

/** `gateUpLayout` is for a gated activation. */
export interface GroupedMatmulArgs extends ActivationOptions, ExpertLayout {
  /** [R, C], sorted by expert */
  rows: Tensor;
  /**
   * [E, N, C], or [E, C, N] where `transposed`, of rows' dtype; for a gated activation N = 2I, gate rows first, then up rows,
   * unless they are `interleaved`
   */
  weight: Tensor;
  /** int32 [E+1]: group e is rows offsets[e] … offsets[e+1]−1; offsets[0] = 0, offsets[E] ≤ R; rows past it belong to no group and give zeros */
  offsets: Tensor;
  /** float32 or weight's dtype [E, N], arranged as weight's rows */
  bias?: Tensor;
  /** Also return the pre-activation rows, for the backward pass. Default false. */
  savePreActivation?: boolean;
}

/**
 * out[r] = activation(rows[r] · weight[e]ᵀ + bias[e]) for each row r of group e, accumulated in float32. Groups may be empty.
 * @returns out [R, N], or [R, N/2] for a gated activation; preActivation [R, N] where asked for, its columns arranged
 *   as weight's rows
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_SHAPE, ERR_DTYPE, ERR_DEVICE_MISMATCH, ERR_DISPOSED; ERR_INDEX_RANGE at the
 *   next wait if offsets are not ascending from 0 to at most R
 */
export function groupedMatmul(args: GroupedMatmulArgs): { out: Tensor; preActivation?: Tensor } {
  return recall(MATMULS, args, groupedMatmulAnew);
}

const MATMULS: Calls = [];

function groupedMatmulAnew(args: GroupedMatmulArgs): { out: Tensor; preActivation?: Tensor } {
  const keys = ['rows', 'weight', 'offsets', 'bias', 'savePreActivation', ...LAYOUT_KEYS];
  checkKeys('args', args, [...keys, ...ACTIVATION_KEYS]);
  const rows = checkTensor('rows', args.rows, { dtype: FLOAT_DTYPES, shape: [null, null] });
  const [rowCount, inner] = rows.shape as [number, number];
  const { weight, experts, width } = checkWeight(args, rows.dtype, null, inner);
  const offsets = checkTensor('offsets', args.offsets, { dtype: 'int32', shape: [experts + 1] });
  const bias = checkOptionalTensor('bias', args.bias, {
    dtype: ['float32', weight.dtype],
    shape: [experts, width],
  });
  const resolved = resolveActivation('', args, 'identity');
  const { activation } = resolved;
  checkLayout('', args, isGated(activation));
  const savePreActivation = checkBoolean('savePreActivation', args.savePreActivation ?? false);
  const outWidth = activationWidth('weight', width, activation);
  checkSameDevice({ rows, weight, offsets, bias });
  return disposeOnError(own => {
    const out = own(empty([rowCount, outWidth], { dtype: rows.dtype, device: rows.device }));
    const preActivation = savePreActivation
      ? own(empty([rowCount, width], { dtype: rows.dtype, device: rows.device }))
      : undefined;
    const tensors = { rows, weight, offsets, bias, out, preActivation };
    enqueue('groupedMatmul', tensors, nativeLayout(args), nativeActivation(resolved));
    return { out, preActivation };
  });
}

const LAYOUT_KEYS = ['gateUpLayout', 'transposed'] as const satisfies readonly (keyof ExpertLayout)[];

/** A weight [E, N, C] as it is stored, with N or C as given. */
function checkWeight(
  args: { weight: Tensor; transposed?: boolean },
  dtype: DType,
  width: number | null,
  inner: number | null,
): { weight: Tensor; experts: number; width: number; inner: number } {
  const transposed = checkBoolean('transposed', args.transposed ?? false);
  const shape = transposed ? [null, inner, width] : [null, width, inner];
  const weight = checkTensor('weight', args.weight, { dtype, shape });
  const [experts, rows, columns] = weight.shape as [number, number, number];
  return {
    weight,
    experts,
    ...(transposed ? { width: columns, inner: rows } : { width: rows, inner: columns }),
  };
}

function nativeLayout({ gateUpLayout, transposed }: ExpertLayout): Record<string, boolean> {
  return { interleaved: gateUpLayout === 'interleaved', transposed: transposed ?? false };
}

/** The width of activated rows whose pre-activation has `width` columns. */
function activationWidth(name: string, width: number, activation: Activation): number {
  if (!isGated(activation)) return width;
  if (width % 2 !== 0) {
    throw badArgument('ERR_SHAPE', name, `an even number of output rows for ${activation}`, String(width));
  }
  return width / 2;
}

/** `gateUpLayout` is that of `preActivation`. */
export interface GroupedMatmulDgradArgs extends ActivationOptions, ExpertLayout {
  /** [R, N] */
  dOut: Tensor;
  /** [E, N, C], or [E, C, N] where `transposed`, of dOut's dtype */
  weight: Tensor;
  /** int32 [E+1] */
  offsets: Tensor;
  /**
   * [R, C], or [R, 2C] where `activation` is gated: what `activation`, which produced the C columns that the product took in,
   * was applied to. Its derivative is applied in the epilogue.
   */
  preActivation?: Tensor;
}

/**
 * The gradient of {@link groupedMatmul} to its rows: dOut[r] · weight[e]; with `activation` and `preActivation` of the
 * layer below, carried through that activation too, to the gradient of its pre-activation.
 * @returns [R, C], or the shape of `preActivation`
 * @throws MoeError as {@link groupedMatmul}
 */
export function groupedMatmulDgrad(args: GroupedMatmulDgradArgs): Tensor {
  return recall(DGRADS, args, groupedMatmulDgradAnew);
}

const DGRADS: Calls = [];

function groupedMatmulDgradAnew(args: GroupedMatmulDgradArgs): Tensor {
  const keys = ['dOut', 'weight', 'offsets', 'preActivation', ...LAYOUT_KEYS, ...ACTIVATION_KEYS];
  checkKeys('args', args, keys);
  const dOut = checkTensor('dOut', args.dOut, { dtype: FLOAT_DTYPES, shape: [null, null] });
  const [rowCount, width] = dOut.shape as [number, number];
  const { weight, experts, inner } = checkWeight(args, dOut.dtype, width, null);
  const offsets = checkTensor('offsets', args.offsets, { dtype: 'int32', shape: [experts + 1] });
  const resolved = resolveActivation('', args, 'identity');
  const { activation } = resolved;
  checkLayout('', args, isGated(activation));
  const preWidth = isGated(activation) ? 2 * inner : inner;
  const preActivation = checkOptionalTensor('preActivation', args.preActivation, {
    dtype: dOut.dtype,
    shape: [rowCount, preWidth],
  });
  if (activation !== 'identity' && preActivation === undefined) {
    throw badArgument(
      'ERR_INVALID_ARGUMENT',
      'preActivation',
      `the rows ${activation} was applied to`,
      'undefined',
    );
  }
  checkSameDevice({ dOut, weight, offsets, preActivation });
  return disposeOnError(own => {
    const dRows = own(empty([rowCount, preWidth], { dtype: dOut.dtype, device: dOut.device }));
    const tensors = { dOut, weight, offsets, preActivation, dRows };
    enqueue('groupedMatmulDgrad', tensors, nativeLayout(args), nativeActivation(resolved));
    return dRows;
  });
}

export interface GroupedMatmulWgradArgs {
  /** [R, N] */
  dOut: Tensor;
  /** [R, C], as given to {@link groupedMatmul} */
  rows: Tensor;
  /** int32 [E+1] */
  offsets: Tensor;
  /** dWeight is [E, C, N]. Default false. */
  transposed?: boolean;
  /** Also return the gradient of the bias. Default false, or true where `accumulateInto.bias` is given. */
  bias?: boolean;
  /** Gradients are added to these instead of being written to new tensors; float32 or dOut's dtype. */
  accumulateInto?: { weight?: Tensor; bias?: Tensor };
}

/**
 * The gradient of {@link groupedMatmul} to its parameters: dWeight[e] = Σ_r dOut[r]ᵀ · rows[r] over the rows of group e,
 * in their order, dBias[e] = Σ_r dOut[r]. An empty group's gradient is zero.
 * @param args.experts E is offsets' length − 1
 * @returns dWeight [E, N, C], or [E, C, N] where `transposed`; dBias [E, N]
 * @throws MoeError as {@link groupedMatmul}
 */
export function groupedMatmulWgrad(args: GroupedMatmulWgradArgs): { dWeight: Tensor; dBias?: Tensor } {
  return recall(WGRADS, args, groupedMatmulWgradAnew);
}

const WGRADS: Calls = [];

function groupedMatmulWgradAnew(args: GroupedMatmulWgradArgs): { dWeight: Tensor; dBias?: Tensor } {
  checkKeys('args', args, ['dOut', 'rows', 'offsets', 'transposed', 'bias', 'accumulateInto']);
  const transposed = checkBoolean('transposed', args.transposed ?? false);
  const dOut = checkTensor('dOut', args.dOut, { dtype: FLOAT_DTYPES, shape: [null, null] });
  const [rowCount, width] = dOut.shape as [number, number];
  const rows = checkTensor('rows', args.rows, { dtype: dOut.dtype, shape: [rowCount, null] });
  const offsets = checkTensor('offsets', args.offsets, { dtype: 'int32', shape: [null] });
  if (offsets.size < 2)
    throw badArgument('ERR_SHAPE', 'offsets', 'shape [E+1] with E ≥ 1', `[${offsets.size}]`);
  const experts = offsets.size - 1;
  const into = args.accumulateInto ?? {};
  checkKeys('accumulateInto', into, ['weight', 'bias']);
  const { dtype } = dOut;
  const bias = checkBoolean('bias', args.bias ?? into.bias !== undefined);
  return disposeOnError(own => {
    const inner = rows.shape[1]!;
    const weightSpec = { shape: transposed ? [experts, inner, width] : [experts, width, inner], dtype };
    const biasSpec = bias ? { shape: [experts, width], dtype } : undefined;
    const dWeight = gradient(own, 'accumulateInto.weight', weightSpec, into.weight, dOut.device)!;
    const dBias = gradient(own, 'accumulateInto.bias', biasSpec, into.bias, dOut.device);
    checkSameDevice({ dOut, rows, offsets, 'accumulateInto.weight': dWeight, 'accumulateInto.bias': dBias });
    enqueue('groupedMatmulWgrad', {
      ...{ dOut, rows, offsets, dWeight, dBias, transposed },
      accumulateDWeight: into.weight !== undefined,
      accumulateDBias: into.bias !== undefined,
    });
    return { dWeight, dBias };
  });
}
