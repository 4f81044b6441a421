// Matrix products over ragged groups of rows: forward, and the gradients of rows, weights and bias.

import { addScaled, dot, FLOAT64, type Precision } from './precision.ts';

/** Group e is rows offsets[e] … offsets[e+1]−1; `inner` C columns come in, `width` N go out. */
export interface Groups {
  offsets: ArrayLike<number>;
  width: number;
  inner: number;
}

function* rowsOf({ offsets }: Groups): Generator<[row: number, expert: number]> {
  for (let expert = 0; expert < offsets.length - 1; expert++) {
    for (let row = offsets[expert]!; row < offsets[expert + 1]!; row++) yield [row, expert];
  }
}

const rowCount = ({ offsets }: Groups) => offsets[offsets.length - 1]!;

/** out[r] = rows[r] · weight[e]ᵀ + bias[e]: [R, N] */
export function referenceMatmul(
  rows: Float64Array,
  weight: Float64Array,
  groups: Groups,
  bias?: Float64Array,
  precision: Precision = FLOAT64,
): Float64Array {
  const { width, inner } = groups;
  const out = new Float64Array(rowCount(groups) * width);
  for (const [row, expert] of rowsOf(groups)) {
    for (let n = 0; n < width; n++) {
      const product = dot(precision, rows, row * inner, weight, (expert * width + n) * inner, inner);
      out[row * width + n] = precision.round(product + (bias?.[expert * width + n] ?? 0));
    }
  }
  return out;
}

/** dRows[r] = dOut[r] · weight[e]: [R, C] */
export function referenceDgrad(
  dOut: Float64Array,
  weight: Float64Array,
  groups: Groups,
  precision: Precision = FLOAT64,
): Float64Array {
  const { width, inner } = groups;
  const dRows = new Float64Array(rowCount(groups) * inner);
  for (const [row, expert] of rowsOf(groups)) {
    for (let n = 0; n < width; n++) {
      const from = (expert * width + n) * inner;
      addScaled(precision, dOut[row * width + n]!, weight, from, dRows, row * inner, inner);
    }
  }
  return dRows.map(precision.round);
}

/** dWeight[e] = Σ_r dOut[r]ᵀ · rows[r]: [E, N, C]; dBias[e] = Σ_r dOut[r]: [E, N] */
export function referenceWgrad(
  dOut: Float64Array,
  rows: Float64Array,
  groups: Groups,
  precision: Precision = FLOAT64,
): { dWeight: Float64Array; dBias: Float64Array } {
  const { offsets, width, inner } = groups;
  const experts = offsets.length - 1;
  const dWeight = new Float64Array(experts * width * inner);
  const dBias = new Float64Array(experts * width);
  for (const [row, expert] of rowsOf(groups)) {
    for (let n = 0; n < width; n++) {
      const to = (expert * width + n) * inner;
      addScaled(precision, dOut[row * width + n]!, rows, row * inner, dWeight, to, inner);
    }
    addScaled(precision, 1, dOut, row * width, dBias, expert * width, width);
  }
  return { dWeight: dWeight.map(precision.round), dBias: dBias.map(precision.round) };
}
