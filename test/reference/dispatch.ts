// Dispatch and combine: the stable sort of slots by expert, rows gathered by it, and brought back.

import { FLOAT64, type Precision } from './precision.ts';

export interface ReferenceDispatch {
  /** [E+1]: expert e owns rows offsets[e] … offsets[e+1]−1 */
  offsets: Int32Array;
  /** [R]: the slot t·K + k of each row */
  rowSlot: Int32Array;
  /** [T, K]: the row of each slot */
  slotRow: Int32Array;
  topK: number;
}

export function referenceDispatch(indices: Int32Array, topK: number, experts: number): ReferenceDispatch {
  const rowSlot = Int32Array.from(indices.keys()).sort((a, b) => indices[a]! - indices[b]! || a - b);
  const offsets = new Int32Array(experts + 1);
  for (const expert of indices) offsets[expert + 1]!++;
  for (let e = 0; e < experts; e++) offsets[e + 1]! += offsets[e]!;
  const slotRow = new Int32Array(indices.length);
  for (const [row, slot] of rowSlot.entries()) slotRow[slot] = row;
  return { offsets, rowSlot, slotRow, topK };
}

/** rows[r] = x[token of r], times the weight of r where weights [T, K] are given */
export function referencePermute(
  x: Float64Array,
  dispatch: ReferenceDispatch,
  hidden: number,
  weights?: Float64Array,
  { round }: Precision = FLOAT64,
): Float64Array {
  const { rowSlot, topK } = dispatch;
  const rows = new Float64Array(rowSlot.length * hidden);
  for (const [row, slot] of rowSlot.entries()) {
    const token = Math.floor(slot / topK);
    const factor = weights?.[slot] ?? 1;
    for (let h = 0; h < hidden; h++) rows[row * hidden + h] = round(factor * x[token * hidden + h]!);
  }
  return rows;
}

/** y[t] = Σ_k weights[t, k] · rows[row of (t, k)]; a plain sum without weights */
export function referenceUnpermute(
  rows: Float64Array,
  dispatch: ReferenceDispatch,
  hidden: number,
  weights?: Float64Array,
  { round, float32Sums }: Precision = FLOAT64,
): Float64Array {
  const { slotRow, topK } = dispatch;
  const y = new Float64Array((slotRow.length / topK) * hidden);
  for (const [slot, row] of slotRow.entries()) {
    const start = Math.floor(slot / topK) * hidden;
    const factor = weights?.[slot] ?? 1;
    for (let h = 0; h < hidden; h++) {
      const sum = y[start + h]! + factor * rows[row * hidden + h]!;
      y[start + h] = float32Sums ? Math.fround(sum) : sum;
    }
  }
  return y.map(round);
}

/** dWeights[t, k] = ⟨dy[t], rows[row of (t, k)]⟩ */
export function referenceWeightGradient(
  rows: Float64Array,
  dispatch: ReferenceDispatch,
  hidden: number,
  dy: Float64Array,
  { float32Sums }: Precision = FLOAT64,
): Float64Array {
  const { slotRow, topK } = dispatch;
  const dWeights = new Float64Array(slotRow.length);
  for (const [slot, row] of slotRow.entries()) {
    const token = Math.floor(slot / topK);
    for (let h = 0; h < hidden; h++) {
      const sum = dWeights[slot]! + dy[token * hidden + h]! * rows[row * hidden + h]!;
      dWeights[slot] = float32Sums ? Math.fround(sum) : sum;
    }
  }
  return dWeights;
}
