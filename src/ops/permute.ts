// Dispatch and combine: rows sorted by expert, and brought back to their tokens.

import {
  checkInteger,
  checkKeys,
  checkOptionalTensor,
  checkRowCount,
  checkSameDevice,
  checkTensor,
} from '../check.ts';
import { FLOAT_DTYPES } from '../dtype.ts';
import { badArgument } from '../errors.ts';
import { empty, type Tensor } from '../tensor.ts';
import { disposeOnError, enqueue } from './call.ts';

/**
 * The permutation between slots (t, k), numbered t·K + k, and rows sorted by expert. A stable counting sort: rows of one
 * expert keep the order of their tokens.
 */
export interface Dispatch {
  /** int32 [E+1]: expert e owns rows offsets[e] … offsets[e+1]−1; the last is at most R */
  readonly offsets: Tensor;
  /** int32 [R]: the slot of each row; −1 for rows past the last that is used */
  readonly rowSlot: Tensor;
  /** int32 [T, K]: the row of each slot; −1 for a dropped slot, −2 for one of an identity expert */
  readonly slotRow: Tensor;
}

export interface DispatchArgs {
  /** int32 [T, K]: expert ids */
  indices: Tensor;
  /** E */
  experts: number;
  /** So many ids from E on are identity experts: their slots get no row. Default 0. */
  identityExperts?: number;
  /** int32 [T, K]: slots that are not 0 here get no row. {@link Routing.dropped} */
  dropped?: Tensor;
}

const DISPATCH_KEYS = ['indices', 'experts', 'identityExperts', 'dropped'] as const;

/**
 * The permutation that groups routed rows by expert, without moving any.
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_SHAPE, ERR_DTYPE; at the next wait ERR_INDEX_RANGE if an id is not in
 *   [0, E + identityExperts)
 */
export function dispatch(args: DispatchArgs): Dispatch {
  checkKeys('args', args, DISPATCH_KEYS);
  const indices = checkTensor('indices', args.indices, { dtype: 'int32', shape: [null, null] });
  const [tokens, topK] = indices.shape as [number, number];
  const experts = checkInteger('experts', args.experts, 1);
  const identityExperts = checkInteger('identityExperts', args.identityExperts ?? 0, 0);
  const dropped = checkOptionalTensor('dropped', args.dropped, { dtype: 'int32', shape: indices.shape });
  const rows = checkRowCount(tokens, topK);
  checkSameDevice({ indices, dropped });
  return disposeOnError(own => {
    const offsets = own(empty([experts + 1], { dtype: 'int32' }));
    const rowSlot = own(empty([rows], { dtype: 'int32' }));
    const slotRow = own(empty([tokens, topK], { dtype: 'int32' }));
    enqueue('dispatch', { indices, dropped, identityExperts, offsets, rowSlot, slotRow });
    return { offsets, rowSlot, slotRow };
  });
}

/** A dispatch whose tensors are alive and fit together. */
export function checkDispatch(
  name: string,
  value: Dispatch,
): { rows: number; tokens: number; topK: number; experts: number } {
  checkKeys(name, value, ['offsets', 'rowSlot', 'slotRow']);
  const { shape } = checkTensor(`${name}.slotRow`, value.slotRow, { dtype: 'int32', shape: [null, null] });
  const [tokens, topK] = shape as [number, number];
  const rows = tokens * topK;
  checkTensor(`${name}.rowSlot`, value.rowSlot, { dtype: 'int32', shape: [rows] });
  const offsets = checkTensor(`${name}.offsets`, value.offsets, { dtype: 'int32', shape: [null] });
  const experts = checkInteger(`${name}.offsets.shape[0] - 1`, offsets.shape[0]! - 1, 1);
  return { rows, tokens, topK, experts };
}

/**
 * Sorts token rows by expert: rows[r] = x[token of r]. Each token appears as often as it has slots with a row; rows past the
 * last that is used are zeros.
 * @param args.x [T, H] float32, bfloat16 or float16; the rest as {@link dispatch}
 * @returns rows [R, H] of x's dtype, and the permutation
 * @throws MoeError as {@link dispatch}
 */
export function permute(args: DispatchArgs & { x: Tensor }): { rows: Tensor; dispatch: Dispatch } {
  checkKeys('args', args, ['x', ...DISPATCH_KEYS]);
  const { x: given, ...choice } = args;
  const indices = checkTensor('indices', args.indices, { dtype: 'int32', shape: [null, null] });
  const [tokens, topK] = indices.shape as [number, number];
  const x = checkTensor('x', given, { dtype: FLOAT_DTYPES, shape: [tokens, null] });
  checkSameDevice({ x, indices });
  const permutation = dispatch(choice);
  return disposeOnError(own => {
    for (const part of Object.values(permutation)) own(part);
    const rows = own(empty([tokens * topK, x.shape[1]!], { dtype: x.dtype }));
    enqueue('gather', { x, rowSlot: permutation.rowSlot, rows, topK });
    return { rows, dispatch: permutation };
  });
}

/**
 * The gradient of {@link permute}: dx[t] = Σ_k dRows[row of (t, k)], summed in float32 in the order of k.
 * @param args.dRows [R, H]
 * @returns dx [T, H]
 */
export function permuteBackward(args: { dRows: Tensor; dispatch: Dispatch }): Tensor {
  checkKeys('args', args, ['dRows', 'dispatch']);
  return combine('dRows', args.dRows, args.dispatch, undefined);
}

/**
 * Brings rows back to their tokens: y[t] = Σ_k weights[t, k] · rows[row of (t, k)], summed in float32 in the order of k.
 * @param args.rows [R, H] float32, bfloat16 or float16
 * @param args.weights float32 [T, K]; without them, a plain sum
 * @returns y [T, H] of rows' dtype
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_SHAPE, ERR_DTYPE, ERR_DEVICE_MISMATCH, ERR_DISPOSED
 */
export function unpermute(args: { rows: Tensor; dispatch: Dispatch; weights?: Tensor }): Tensor {
  checkKeys('args', args, ['rows', 'dispatch', 'weights']);
  return combine('rows', args.rows, args.dispatch, args.weights);
}

function combine(name: string, value: Tensor, permutation: Dispatch, weightsArg: Tensor | undefined): Tensor {
  const { rows: rowCount, tokens, topK } = checkDispatch('dispatch', permutation);
  const rows = checkTensor(name, value, { dtype: FLOAT_DTYPES, shape: [rowCount, null] });
  const weights = checkOptionalTensor('weights', weightsArg, { dtype: 'float32', shape: [tokens, topK] });
  const { slotRow } = permutation;
  checkSameDevice({ [name]: rows, weights, slotRow });
  return disposeOnError(own => {
    const y = own(empty([tokens, rows.shape[1]!], { dtype: rows.dtype }));
    enqueue('combine', { rows, slotRow, weights, y });
    return y;
  });
}

/**
 * The gradient of {@link unpermute}: dRows[r] = weight of r · dy[token of r], and, where `rows` is given,
 * dWeights[t, k] = ⟨dy[t], rows[row of (t, k)]⟩.
 * @param args.dy [T, H]
 * @param args.rows [R, H], as given to {@link unpermute}; asks for `dWeights`
 * @param args.weights float32 [T, K], as given to {@link unpermute}
 * @returns dRows [R, H] of dy's dtype; dWeights float32 [T, K]
 */
export function unpermuteBackward(args: {
  dy: Tensor;
  dispatch: Dispatch;
  rows?: Tensor;
  weights?: Tensor;
}): {
  dRows: Tensor;
  dWeights?: Tensor;
} {
  checkKeys('args', args, ['dy', 'dispatch', 'rows', 'weights']);
  const { rows: rowCount, tokens, topK } = checkDispatch('dispatch', args.dispatch);
  const dy = checkTensor('dy', args.dy, { dtype: FLOAT_DTYPES, shape: [tokens, null] });
  const hidden = dy.shape[1]!;
  const rows = checkOptionalTensor('rows', args.rows, { dtype: dy.dtype, shape: [rowCount, hidden] });
  const weights = checkOptionalTensor('weights', args.weights, { dtype: 'float32', shape: [tokens, topK] });
  if (rows !== undefined && weights === undefined) {
    throw badArgument(
      'ERR_INVALID_ARGUMENT',
      'weights',
      'the weights whose gradient rows asks for',
      'undefined',
    );
  }
  const { rowSlot } = args.dispatch;
  checkSameDevice({ dy, rows, weights, rowSlot });
  return disposeOnError(own => {
    const dRows = own(empty([rowCount, hidden], { dtype: dy.dtype }));
    const dWeights = rows && own(empty([tokens, topK]));
    enqueue('combineBackward', { dy, rows, weights, rowSlot, topK, dRows, dWeights });
    return { dRows, dWeights };
  });
}
