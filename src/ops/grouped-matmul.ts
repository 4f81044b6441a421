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
import { FLOAT_DTYPES } from '../dtype.ts';
import { badArgument } from '../errors.ts';
import { empty, type Tensor } from '../tensor.ts';
import { disposeOnError, enqueue } from './call.ts';
import { gradient } from './gradient.ts';

export interface GroupedMatmulArgs extends ActivationOptions {
  /** [R, C], sorted by expert */
  rows: Tensor;
  /** [E, N, C] of rows' dtype; for a gated activation N = 2I, gate rows first, then up rows */
  weight: Tensor;
  /** int32 [E+1]: group e is rows offsets[e] … offsets[e+1]−1; offsets[0] = 0, offsets[E] ≤ R; rows past it belong to no group and give zeros */
  offsets: Tensor;
  /** float32 or weight's dtype [E, N] */
  bias?: Tensor;
  /** Also return the pre-activation rows, for the backward pass. Default false. */
  savePreActivation?: boolean;
}

/**
 * out[r] = activation(rows[r] · weight[e]ᵀ + bias[e]) for each row r of group e, accumulated in float32. Groups may be empty.
 * @returns out [R, N], or [R, N/2] for a gated activation; preActivation [R, N] where asked for
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_SHAPE, ERR_DTYPE, ERR_DEVICE_MISMATCH, ERR_DISPOSED; ERR_INDEX_RANGE at the
 *   next wait if offsets are not ascending from 0 to at most R
 */
export function groupedMatmul(args: GroupedMatmulArgs): { out: Tensor; preActivation?: Tensor } {
  checkKeys('args', args, ['rows', 'weight', 'offsets', 'bias', 'savePreActivation', ...ACTIVATION_KEYS]);
  const rows = checkTensor('rows', args.rows, { dtype: FLOAT_DTYPES, shape: [null, null] });
  const [rowCount, inner] = rows.shape as [number, number];
  const weight = checkTensor('weight', args.weight, { dtype: rows.dtype, shape: [null, null, inner] });
  const [experts, width] = weight.shape as [number, number, number];
  const offsets = checkTensor('offsets', args.offsets, { dtype: 'int32', shape: [experts + 1] });
  const bias = checkOptionalTensor('bias', args.bias, {
    dtype: ['float32', weight.dtype],
    shape: [experts, width],
  });
  const resolved = resolveActivation('', args, 'identity');
  const { activation } = resolved;
  const savePreActivation = checkBoolean('savePreActivation', args.savePreActivation ?? false);
  const outWidth = activationWidth('weight', width, activation);
  checkSameDevice({ rows, weight, offsets, bias });
  return disposeOnError(own => {
    const out = own(empty([rowCount, outWidth], { dtype: rows.dtype }));
    const preActivation = savePreActivation
      ? own(empty([rowCount, width], { dtype: rows.dtype }))
      : undefined;
    enqueue('groupedMatmul', {
      ...{ rows, weight, offsets, bias, out, preActivation },
      ...nativeActivation(resolved),
    });
    return { out, preActivation };
  });
}

/** The width of activated rows whose pre-activation has `width` columns. */
function activationWidth(name: string, width: number, activation: Activation): number {
  if (!isGated(activation)) return width;
  if (width % 2 !== 0) {
    throw badArgument('ERR_SHAPE', name, `an even number of output rows for ${activation}`, String(width));
  }
  return width / 2;
}

export interface GroupedMatmulDgradArgs extends ActivationOptions {
  /** [R, N] */
  dOut: Tensor;
  /** [E, N, C], of dOut's dtype */
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
  checkKeys('args', args, ['dOut', 'weight', 'offsets', 'preActivation', ...ACTIVATION_KEYS]);
  const dOut = checkTensor('dOut', args.dOut, { dtype: FLOAT_DTYPES, shape: [null, null] });
  const [rowCount, width] = dOut.shape as [number, number];
  const weight = checkTensor('weight', args.weight, { dtype: dOut.dtype, shape: [null, width, null] });
  const [experts, , inner] = weight.shape as [number, number, number];
  const offsets = checkTensor('offsets', args.offsets, { dtype: 'int32', shape: [experts + 1] });
  const resolved = resolveActivation('', args, 'identity');
  const { activation } = resolved;
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
    const dRows = own(empty([rowCount, preWidth], { dtype: dOut.dtype }));
    enqueue('groupedMatmulDgrad', {
      ...{ dOut, weight, offsets, preActivation, dRows },
      ...nativeActivation(resolved),
    });
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
  /** Also return the gradient of the bias. Default false, or true where `accumulateInto.bias` is given. */
  bias?: boolean;
  /** Gradients are added to these instead of being written to new tensors; float32 or dOut's dtype. */
  accumulateInto?: { weight?: Tensor; bias?: Tensor };
}

/**
 * The gradient of {@link groupedMatmul} to its parameters: dWeight[e] = Σ_r dOut[r]ᵀ · rows[r] over the rows of group e,
 * in their order, dBias[e] = Σ_r dOut[r]. An empty group's gradient is zero.
 * @param args.experts E is offsets' length − 1
 * @returns dWeight [E, N, C], dBias [E, N]
 * @throws MoeError as {@link groupedMatmul}
 */
export function groupedMatmulWgrad(args: GroupedMatmulWgradArgs): { dWeight: Tensor; dBias?: Tensor } {
  checkKeys('args', args, ['dOut', 'rows', 'offsets', 'bias', 'accumulateInto']);
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
    const weightSpec = { shape: [experts, width, rows.shape[1]!], dtype };
    const biasSpec = bias ? { shape: [experts, width], dtype } : undefined;
    const dWeight = gradient(own, 'accumulateInto.weight', weightSpec, into.weight)!;
    const dBias = gradient(own, 'accumulateInto.bias', biasSpec, into.bias);
    checkSameDevice({ dOut, rows, offsets, 'accumulateInto.weight': dWeight, 'accumulateInto.bias': dBias });
    enqueue('groupedMatmulWgrad', {
      ...{ dOut, rows, offsets, dWeight, dBias },
      accumulateDWeight: into.weight !== undefined,
      accumulateDBias: into.bias !== undefined,
    });
    return { dWeight, dBias };
  });
}
