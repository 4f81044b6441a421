// Copies of a layer that runs take by turns, so that none finds its weights where the last-level cache has kept them: in a model
// other layers run between two runs of one.

import type { Workload } from './workload.ts';

/** A layer so small that it takes more is never cold; its time goes into calls, not into memory. */
const MOST_COPIES = 256;

/** What a copy takes, and how much of that a run reads. */
export interface CopyBytes {
  readonly all: number;
  readonly read: number;
}

/** How many copies it takes until what one run reads has gone from a cache, and as many as half the memory holds. */
export function copiesFor({ all, read }: CopyBytes, cacheBytes: number, availableBytes: number): number {
  const enough = Math.ceil((2 * cacheBytes) / read);
  const fitting = Math.floor(availableBytes / 2 / all);
  return Math.max(1, Math.min(enough, fitting, MOST_COPIES));
}

/** A layer and its copies. The layer stays its owner's. */
export class Copies implements Disposable {
  readonly layers: readonly Workload[];

  constructor(layer: Workload, count: number, copy: () => Workload) {
    const layers = [layer];
    this.layers = layers;
    try {
      while (layers.length < count) layers.push(copy());
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    const [layer, ...copies] = this.layers;
    layer!.dropForward();
    for (const copy of copies) copy.dispose();
  }
}
