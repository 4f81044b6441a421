// Dispatch and combine: the stable sort of slots by expert, rows gathered by it, and brought back.

import { FLOAT64, type Precision } from './precision.ts';

/** `slotRow` of a slot without a row: dropped for want of capacity, or routed to an identity expert. */
const DROPPED_SLOT = -1;
export const IDENTITY_SLOT = -2;

export interface ReferenceDispatch {
  /** [E+1]: expert e owns rows offsets[e] … offsets[e+1]−1 */
  offsets: Int32Array;
  /** [R]: the slot t·K + k of each row; −1 for the rows past offsets[E], which belong to no expert */
  rowSlot: Int32Array;
  /** [T, K]: the row of each slot */
  slotRow: Int32Array;
  topK: number;
}

/** Slots that `dropped` [T, K] marks, and those of expert ids from `experts` on, get no row. */
export function referenceDispatch(
  indices: Int32Array,
  topK: number,
  experts: number,
  dropped?: Int32Array,
): ReferenceDispatch {
  const slotRow = indices.map((expert, slot) =>
    dropped?.[slot] ? DROPPED_SLOT : expert < experts ? 0 : IDENTITY_SLOT,
  );
  const sorted = Array.from(indices.keys())
    .filter(slot => slotRow[slot] === 0)
    .sort((a, b) => indices[a]! - indices[b]! || a - b);
  const offsets = new Int32Array(experts + 1);
  const rowSlot = new Int32Array(indices.length).fill(-1);
  for (const [row, slot] of sorted.entries()) {
    offsets[indices[slot]! + 1]!++;
    rowSlot[row] = slot;
    slotRow[slot] = row;
  }
  for (let e = 0; e < experts; e++) offsets[e + 1]! += offsets[e]!;
  return { offsets, rowSlot, slotRow, topK };
}

/** The rows that belong to an expert, with their slots. */
const usedRows = ({ offsets, rowSlot }: ReferenceDispatch) => rowSlot.subarray(0, offsets.at(-1)).entries();

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
