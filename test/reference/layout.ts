// How expert parameters lie in memory: every published arrangement as a placement in the plain matrix [E, N, C], whose gate
// rows come before its up rows. A matrix may be put together from several tensors.

import type { Activation } from '../../src/activation.ts';
import { columnsPerOutput } from './activation.ts';

export interface Placement {
  experts: number;
  /** The plain matrix's row of each stored row. */
  rows: readonly number[];
  /** N */
  width: number;
  /** C; 1 of a bias */
  inner: number;
  /** Stored as [E, C, rows] instead of [E, rows, C]. */
  transposed?: boolean;
}

/** Calls back with every element's place in the stored tensor and in the plain matrix. */
function forEachPlace(placement: Placement, visit: (stored: number, plain: number) => void): void {
  const { experts, rows, width, inner, transposed = false } = placement;
  const [rowStride, columnStride] = transposed ? [1, rows.length] : [inner, 1];
  for (let e = 0; e < experts; e++) {
    for (const [row, plainRow] of rows.entries()) {
      const stored = e * rows.length * inner + row * rowStride;
      const plain = (e * width + plainRow) * inner;
      for (let c = 0; c < inner; c++) visit(stored + c * columnStride, plain + c);
    }
  }
}

/** Puts a stored tensor into the plain matrix it is a part of. */
export function place(stored: Float64Array, placement: Placement, plain: Float64Array): void {
  forEachPlace(placement, (from, to) => {
    plain[to] = stored[from]!;
  });
}

/** The part of a plain matrix that a tensor stores. */
export function take(plain: Float64Array, placement: Placement): Float64Array {
  const { experts, rows, inner } = placement;
  const stored = new Float64Array(experts * rows.length * inner);
  forEachPlace(placement, (to, from) => {
    stored[to] = plain[from]!;
  });
  return stored;
}

const range = (from: number, count: number) => Array.from({ length: count }, (_, i) => from + i);

/** Which rows of the plain up matrix each tensor that may be given has, by the tensor's name. */
export function upRows(
  activation: Activation,
  intermediate: number,
  gateUpLayout: 'concatenated' | 'interleaved',
): { readonly [name: string]: readonly number[] } {
  if (columnsPerOutput(activation) === 1) return { up: range(0, intermediate) };
  const concatenated = range(0, 2 * intermediate);
  return {
    gate_up:
      gateUpLayout === 'concatenated'
        ? concatenated
        : concatenated.map(row => (row % 2) * intermediate + Math.floor(row / 2)),
    gate: range(0, intermediate),
    up: range(intermediate, intermediate),
  };
}
