// Dispatch and combine: the stable sort of slots by expert, rows gathered by it, and brought back.

import { RESIDUAL } from './capacity.ts';
import { FLOAT64, type Precision } from './precision.ts';

/** `slotRow` of a slot without a row: not served, or one that returns its token. */
const DROPPED_SLOT = -1;
export const IDENTITY_SLOT = -2;

export interface ReferenceDispatch {
  /** [E+1]: expert e owns rows offsets[e] … offsets[e+1]−1 */
  offsets: Int32Array;
  /** [R]: the slot t·K + k of each row; −1 for rows that hold none */
  rowSlot: Int32Array;
  /** [T, K]: the row of each slot */
  slotRow: Int32Array;
  topK: number;
}

/**
 * Slots that `dropped` [T, K] marks, and those of expert ids from `experts` on, get no row.
 * @param rows R; as many as there are slots unless given
 * @param rowsPerExpert C: every expert owns C rows, whether used or not
 */
export function referenceDispatch(
  indices: Int32Array,
  topK: number,
  experts: number,
  dropped?: Int32Array,
  { rows = indices.length, rowsPerExpert }: { rows?: number; rowsPerExpert?: number } = {},
): ReferenceDispatch {
  const slotRow = indices.map((expert, slot) => {
    if (dropped?.[slot] === RESIDUAL || (!dropped?.[slot] && expert >= experts)) return IDENTITY_SLOT;
    return dropped?.[slot] ? DROPPED_SLOT : 0;
  });
  const slotsOf = Array.from({ length: experts }, (): number[] => []);
  for (const [slot, expert] of indices.entries()) if (slotRow[slot] === 0) slotsOf[expert]!.push(slot);
  const offsets = new Int32Array(experts + 1);
  const rowSlot = new Int32Array(rowsPerExpert === undefined ? rows : experts * rowsPerExpert).fill(-1);
  for (const [expert, slots] of slotsOf.entries()) {
    const first = offsets[expert]!;
    rowSlot.set(slots, first);
    for (const [i, slot] of slots.entries()) slotRow[slot] = first + i;
    offsets[expert + 1] = first + (rowsPerExpert ?? slots.length);
  }
  return { offsets, rowSlot, slotRow, topK };
}

/** The rows that hold a slot, with it. */
function* usedRows({ rowSlot }: ReferenceDispatch): Generator<[row: number, slot: number]> {
  for (const [row, slot] of rowSlot.entries()) if (slot >= 0) yield [row, slot];
}

/** The slots that have a row. */
function* slotsWithRow({ slotRow }: ReferenceDispatch): Generator<[slot: number, row: number]> {
  for (const [slot, row] of slotRow.entries()) if (row >= 0) yield [slot, row];
}

/** rows[r] = x[token of r], times the weight of r where weights [T, K] are given; rows of no expert are 0 */
export function referencePermute(
  x: Float64Array,
  dispatch: ReferenceDispatch,
  hidden: number,
  weights?: Float64Array,
  { round }: Precision = FLOAT64,
): Float64Array {
  const { rowSlot, topK } = dispatch;
  const rows = new Float64Array(rowSlot.length * hidden);
  for (const [row, slot] of usedRows(dispatch)) {
    const token = Math.floor(slot / topK);
    const factor = weights?.[slot] ?? 1;
    for (let h = 0; h < hidden; h++) rows[row * hidden + h] = round(factor * x[token * hidden + h]!);
  }
  return rows;
}

/** y[t] = Σ_k weights[t, k] · rows[row of (t, k)] over the slots with a row; a plain sum without weights */
export function referenceUnpermute(
  rows: Float64Array,
  dispatch: ReferenceDispatch,
  hidden: number,
  weights?: Float64Array,
  { round, float32Sums }: Precision = FLOAT64,
): Float64Array {
  const { slotRow, topK } = dispatch;
  const y = new Float64Array((slotRow.length / topK) * hidden);
  for (const [slot, row] of slotsWithRow(dispatch)) {
    const start = Math.floor(slot / topK) * hidden;
    const factor = weights?.[slot] ?? 1;
    for (let h = 0; h < hidden; h++) {
      const sum = y[start + h]! + factor * rows[row * hidden + h]!;
      y[start + h] = float32Sums ? Math.fround(sum) : sum;
    }
  }
  return y.map(round);
}

/** dWeights[t, k] = ⟨dy[t], rows[row of (t, k)]⟩; 0 for a slot without a row */
export function referenceWeightGradient(
  rows: Float64Array,
  dispatch: ReferenceDispatch,
  hidden: number,
  dy: Float64Array,
  { float32Sums }: Precision = FLOAT64,
): Float64Array {
  const { slotRow, topK } = dispatch;
  const dWeights = new Float64Array(slotRow.length);
  for (const [slot, row] of slotsWithRow(dispatch)) {
    const token = Math.floor(slot / topK);
    for (let h = 0; h < hidden; h++) {
      const sum = dWeights[slot]! + dy[token * hidden + h]! * rows[row * hidden + h]!;
      dWeights[slot] = float32Sums ? Math.fround(sum) : sum;
    }
  }
  return dWeights;
}
