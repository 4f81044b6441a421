// Work for the queue, small and large. Used by tests, by child processes and by workers, so nothing here needs vitest.

import { createHash } from 'node:crypto';
import {
  type GroupedMatmulArgs,
  groupedMatmul,
  MoELayer,
  type MoELayerConfig,
  type Tensor,
  tensor,
} from '../../../src/index.ts';
import { seeded } from '../../support/random.ts';

export const SMALL_LAYER: MoELayerConfig = { hidden: 64, intermediate: 64, experts: 4, topK: 2 };

export function randomTensor(shape: readonly number[], seed: number): Tensor {
  const size = shape.reduce((a, b) => a * b, 1);
  return tensor(seeded(seed).normals(size), shape);
}

/** rows · weightᵀ, one group. */
export function matmul(rows: Tensor, weight: Tensor): Tensor {
  using offsets = tensor([0, rows.shape[0]!], [2], { dtype: 'int32' });
  const args: GroupedMatmulArgs = { rows, weight, offsets };
  return groupedMatmul(args).out;
}

/** Enqueues about 17 GFLOP, a tenth of a second or more on most machines, and keeps nothing. Returns before they have run. */
export function enqueueLongWork(): void {
  using rows = tensor(new Float32Array(2048 * 1024).fill(1), [2048, 1024]);
  using weight = tensor(new Float32Array(1024 * 1024).fill(1), [1, 1024, 1024]);
  for (let i = 0; i < 4; i++) matmul(rows, weight).dispose();
}

/** A hash of every bit that a layer's forward and backward make from a seed. */
export async function layerDigest(seed: number): Promise<string> {
  using layer = new MoELayer({ ...SMALL_LAYER, bias: true }, { seed });
  using x = randomTensor([96, SMALL_LAYER.hidden], seed + 1);
  using dy = randomTensor([96, SMALL_LAYER.hidden], seed + 2);
  const forward = layer.forwardTrain(x);
  using saved = forward.saved;
  const { dx, gradients } = layer.backward(saved, dy);
  const hash = createHash('sha256');
  for (const result of [forward.y, dx, ...Object.values(gradients)]) {
    hash.update(await result.data());
    result.dispose();
  }
  return hash.digest('hex');
}
