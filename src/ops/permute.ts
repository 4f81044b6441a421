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
import { type Calls, recall } from '../recall.ts';
import { empty, type Tensor } from '../tensor.ts';
import { disposeOnError, enqueue } from './call.ts';

/**
 * The permutation between slots (t, k), numbered t·K + k, and rows sorted by expert. A stable counting sort: rows of one
 * expert keep the order of their tokens.
 */
export interface Dispatch {
  /** int32 [E+1]: expert e owns rows offsets[e] … offsets[e+1]−1; the last is at most R */
  readonly offsets: Tensor;
  /** int32 [R]: the slot of each row; −1 for rows that no slot uses */
  readonly rowSlot: Tensor;
  /** int32 [T, K]: the row of each slot; −1 for a dropped slot, −2 for one that returns its token (an identity expert's) */
  readonly slotRow: Tensor;
}

export interface DispatchArgs {
  /** int32 [T, K]: expert ids */
  indices: Tensor;
  /** E */
  experts: number;
  /** So many ids from E on are identity experts: their slots get no row. Default 0. */
  identityExperts?: number;
  /** int32 [T, K], as {@link Routing.dropped}: slots that are not 0 here get no row. */
  dropped?: Tensor;
  /** R, where fewer than T·K rows suffice ({@link Routing.run}.rows). Default T·K. */
  rows?: number;
  /**
   * Padding to capacity: every expert owns exactly so many rows, used or not, and R = E · rowsPerExpert, so that rows [R, H]
   * are also [E, rowsPerExpert, H]. Default: as many as each uses.
   */
  rowsPerExpert?: number;
}

const DISPATCH_KEYS = ['indices', 'experts', 'identityExperts', 'dropped', 'rows', 'rowsPerExpert'] as const;

/**
 * The permutation that groups routed rows by expert, without moving any.
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_SHAPE, ERR_DTYPE; at the next wait ERR_INDEX_RANGE if an id is not in
 *   [0, E + identityExperts), or if more rows are used than `rows` or `rowsPerExpert` leaves room for
 */
export function dispatch(args: DispatchArgs): Dispatch {
  return recall(DISPATCHES, args, dispatchAnew);
}

const DISPATCHES: Calls = [];

function dispatchAnew(args: DispatchArgs): Dispatch {
  checkKeys('args', args, DISPATCH_KEYS);
  const indices = checkTensor('indices', args.indices, { dtype: 'int32', shape: [null, null] });
  const [tokens, topK] = indices.shape as [number, number];
  const experts = checkInteger('experts', args.experts, 1);
  const identityExperts = checkInteger('identityExperts', args.identityExperts ?? 0, 0);
  const dropped = checkOptionalTensor('dropped', args.dropped, { dtype: 'int32', shape: indices.shape });
  const { rows, rowsPerExpert } = checkRows(args, checkRowCount(tokens, topK), experts);
  checkSameDevice({ indices, dropped });
  const { device } = indices;
  return disposeOnError(own => {
    const offsets = own(empty([experts + 1], { dtype: 'int32', device }));
    const rowSlot = own(empty([rows], { dtype: 'int32', device }));
    const slotRow = own(empty([tokens, topK], { dtype: 'int32', device }));
    enqueue('dispatch', { indices, dropped, identityExperts, rowsPerExpert, offsets, rowSlot, slotRow });
    return { offsets, rowSlot, slotRow };
  });
}

/** R, and the rows of each expert where they are padded. */
function checkRows(
  args: DispatchArgs,
  slots: number,
  experts: number,
): { rows: number; rowsPerExpert: number } {
  if (args.rowsPerExpert === undefined) {
    const rows = args.rows === undefined ? slots : checkInteger('rows', args.rows, 0, slots);
    return { rows, rowsPerExpert: 0 };
  }
  if (args.rows !== undefined) {
    throw badArgument('ERR_INVALID_ARGUMENT', 'rows', 'nothing with rowsPerExpert', String(args.rows));
  }
  const rowsPerExpert = checkInteger('rowsPerExpert', args.rowsPerExpert, 1);
  return { rows: checkRowCount(experts, rowsPerExpert), rowsPerExpert };
}

/** A dispatch whose tensors are alive and fit together. */
export function checkDispatch(
  name: string,
  value: Dispatch,
): { rows: number; tokens: number; topK: number; experts: number } {
  checkKeys(name, value, ['offsets', 'rowSlot', 'slotRow']);
  const { shape } = checkTensor(`${name}.slotRow`, value.slotRow, { dtype: 'int32', shape: [null, null] });
  const [tokens, topK] = shape as [number, number];
  const rows = checkTensor(`${name}.rowSlot`, value.rowSlot, { dtype: 'int32', shape: [null] }).size;
  const offsets = checkTensor(`${name}.offsets`, value.offsets, { dtype: 'int32', shape: [null] });
  const experts = checkInteger(`${name}.offsets.shape[0] - 1`, offsets.shape[0]! - 1, 1);
  return { rows, tokens, topK, experts };
}

/**
 * Sorts token rows by expert: rows[r] = x[token of r]. Each token appears as often as it has slots with a row; rows that no
 * slot uses are zeros.
 * @param args.x [T, H] float32, bfloat16 or float16; the rest as {@link dispatch}
 * @returns rows [R, H] of x's dtype, and the permutation
 * @throws MoeError as {@link dispatch}
 */
export function permute(args: DispatchArgs & { x: Tensor }): { rows: Tensor; dispatch: Dispatch } {
  return recall(PERMUTES, args, permuteAnew);
}

const PERMUTES: Calls = [];

function permuteAnew(args: DispatchArgs & { x: Tensor }): { rows: Tensor; dispatch: Dispatch } {
  checkKeys('args', args, ['x', ...DISPATCH_KEYS]);
  const { x: given, ...choice } = args;
  const indices = checkTensor('indices', args.indices, { dtype: 'int32', shape: [null, null] });
  const [tokens, topK] = indices.shape as [number, number];
  const x = checkTensor('x', given, { dtype: FLOAT_DTYPES, shape: [tokens, null] });
  checkSameDevice({ x, indices });
  const permutation = dispatch(choice);
  return disposeOnError(own => {
    for (const part of Object.values(permutation)) own(part);
    const { rowSlot } = permutation;
    const rows = own(empty([rowSlot.size, x.shape[1]!], { dtype: x.dtype, device: x.device }));
    enqueue('gather', { x, rowSlot, rows, topK });
    return { rows, dispatch: permutation };
  });
}

/**
 * The gradient of {@link permute}: dx[t] = Σ_k dRows[row of (t, k)], summed in float32 in the order of k.
 * @param args.dRows [R, H]
 * @returns dx [T, H]
 */
export function permuteBackward(args: { dRows: Tensor; dispatch: Dispatch }): Tensor {
  return recall(PERMUTE_BACKWARDS, args, permuteBackwardAnew);
}

const PERMUTE_BACKWARDS: Calls = [];

function permuteBackwardAnew(args: { dRows: Tensor; dispatch: Dispatch }): Tensor {
  checkKeys('args', args, ['dRows', 'dispatch']);
  return combine('dRows', args.dRows, args.dispatch, {});
}

export interface UnpermuteArgs {
  /** [R, H] float32, bfloat16 or float16 */
  rows: Tensor;
  dispatch: Dispatch;
  /** float32 [T, K]; without them, a plain sum */
  weights?: Tensor;
  /** [T, H] of rows' dtype: slots of identity experts add weights[t, k] · x[t]. Without it they add nothing. */
  x?: Tensor;
  /** [T, H] of rows' dtype: y is added to it instead of being written to a new tensor. */
  accumulateInto?: Tensor;
}

/**
 * Brings rows back to their tokens: y[t] = Σ_k weights[t, k] · rows[row of (t, k)], summed in float32 in the order of k.
 * @returns y [T, H] of rows' dtype
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_SHAPE, ERR_DTYPE, ERR_DEVICE_MISMATCH, ERR_DISPOSED
 */
export function unpermute(args: UnpermuteArgs): Tensor {
  return recall(UNPERMUTES, args, unpermuteAnew);
}

const UNPERMUTES: Calls = [];

function unpermuteAnew(args: UnpermuteArgs): Tensor {
  checkKeys('args', args, ['rows', 'dispatch', 'weights', 'x', 'accumulateInto']);
  return combine('rows', args.rows, args.dispatch, args);
}

function combine(
  name: string,
  value: Tensor,
  permutation: Dispatch,
  args: Pick<UnpermuteArgs, 'weights' | 'x' | 'accumulateInto'>,
): Tensor {
  const { rows: rowCount, tokens, topK } = checkDispatch('dispatch', permutation);
  const rows = checkTensor(name, value, { dtype: FLOAT_DTYPES, shape: [rowCount, null] });
  const { dtype } = rows;
  const shape = [tokens, rows.shape[1]!];
  const weights = checkOptionalTensor('weights', args.weights, { dtype: 'float32', shape: [tokens, topK] });
  const x = checkOptionalTensor('x', args.x, { dtype, shape });
  const into = checkOptionalTensor('accumulateInto', args.accumulateInto, { dtype, shape });
  const { slotRow } = permutation;
  checkSameDevice({ [name]: rows, weights, slotRow, x, accumulateInto: into });
  return disposeOnError(own => {
    const y = into ?? own(empty(shape, { dtype, device: rows.device }));
    enqueue('combine', { rows, slotRow, weights, x, y, accumulate: into !== undefined });
    return y;
  });
}

export interface UnpermuteBackwardArgs {
  /** [T, H] */
  dy: Tensor;
  dispatch: Dispatch;
  /** [R, H], as given to {@link unpermute}; asks for `dWeights` */
  rows?: Tensor;
  /** float32 [T, K], as given to {@link unpermute} */
  weights?: Tensor;
  /** [T, H], as given to {@link unpermute}; asks for `dx` */
  x?: Tensor;
}

/**
 * The gradient of {@link unpermute}: dRows[r] = weight of r · dy[token of r], and, where `rows` is given,
 * dWeights[t, k] = ⟨dy[t], rows[row of (t, k)]⟩; where `x` is, for slots of identity experts
 * dWeights[t, k] = ⟨dy[t], x[t]⟩ and dx[t] = Σ weights[t, k] · dy[t].
 * @returns dRows [R, H] of dy's dtype; dWeights float32 [T, K]; dx [T, H] of dy's dtype
 */
export function unpermuteBackward(args: UnpermuteBackwardArgs): {
  dRows: Tensor;
  dWeights?: Tensor;
  dx?: Tensor;
} {
  return recall(UNPERMUTE_BACKWARDS, args, unpermuteBackwardAnew);
}

const UNPERMUTE_BACKWARDS: Calls = [];

function unpermuteBackwardAnew(args: UnpermuteBackwardArgs): {
  dRows: Tensor;
  dWeights?: Tensor;
  dx?: Tensor;
} {
  checkKeys('args', args, ['dy', 'dispatch', 'rows', 'weights', 'x']);
  const { rows: rowCount, tokens, topK } = checkDispatch('dispatch', args.dispatch);
  const dy = checkTensor('dy', args.dy, { dtype: FLOAT_DTYPES, shape: [tokens, null] });
  const hidden = dy.shape[1]!;
  const { dtype, device } = dy;
  const rows = checkOptionalTensor('rows', args.rows, { dtype, shape: [rowCount, hidden] });
  const weights = checkOptionalTensor('weights', args.weights, { dtype: 'float32', shape: [tokens, topK] });
  const x = checkOptionalTensor('x', args.x, { dtype, shape: [tokens, hidden] });
  if (rows !== undefined && weights === undefined) {
    throw badArgument(
      'ERR_INVALID_ARGUMENT',
      'weights',
      'the weights whose gradient rows asks for',
      'undefined',
    );
  }
  const { rowSlot, slotRow } = args.dispatch;
  checkSameDevice({ dy, rows, weights, x, rowSlot });
  return disposeOnError(own => {
    const dRows = own(empty([rowCount, hidden], { dtype, device }));
    const dWeights = rows && own(empty([tokens, topK], { device }));
    const dx = x && own(empty([tokens, hidden], { dtype, device }));
    enqueue('combineBackward', { dy, rows, weights, x, rowSlot, slotRow, dRows, dWeights, dx });
    return { dRows, ...(dWeights && { dWeights }), ...(dx && { dx }) };
  });
}
