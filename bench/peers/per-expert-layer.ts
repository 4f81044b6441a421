// The layer as libraries without grouped products hold it: a matrix for each expert.

import { type LayerTensor, readFloats } from './layer-files.ts';
import type { Task } from './peer.ts';

export interface PerExpertLayer<Matrix> {
  /** [T, H] */
  readonly x: Matrix;
  /** [E, H] */
  readonly router: Matrix;
  /** Of each expert [2I, H] or [I, H]. */
  readonly up: readonly Matrix[];
  /** Of each expert [H, I]. */
  readonly down: readonly Matrix[];
}

/** @param make of values that are its own to keep, row after row of `columns` */
export function readPerExpertLayer<Matrix>(
  { shape }: Task,
  folder: string,
  make: (values: Float32Array, columns: number) => Matrix,
): PerExpertLayer<Matrix> {
  const { hidden, intermediate, experts } = shape;
  const matrices = (name: LayerTensor, columns: number) => {
    const values = readFloats(folder, name);
    const size = values.length / experts;
    return Array.from({ length: experts }, (_, e) => make(values.slice(e * size, (e + 1) * size), columns));
  };
  return {
    x: make(readFloats(folder, 'x'), hidden),
    router: make(readFloats(folder, 'router'), hidden),
    up: matrices('up', hidden),
    down: matrices('down', intermediate),
  };
}
