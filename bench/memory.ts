// Whether a layer fits: asked before anything is allocated, because an allocation that succeeds may still end the process.

import { isGated } from '../src/activation.ts';
import { badArgument, type MoeError } from '../src/errors.ts';
import { type LayerShape, weightCount } from './shapes.ts';

/**
 * Bytes per weight while the result is checked, the most memory a run takes: the weights and their gradients in native
 * memory, both once more as float32 for the reference, and a conversion in between.
 */
const BYTES_PER_WEIGHT = { forward: 10, backward: 16 } as const;

/** An estimate from above of the memory a run needs at its peak, in bytes. */
export function requiredBytes(shape: LayerShape, backward: boolean): number {
  const { tokens, hidden, intermediate, experts, topK, activation } = shape;
  const rowWidth = (isGated(activation) ? 4 : 2) * intermediate + 2 * hidden;
  const activations = 4 * (tokens * topK * rowWidth + tokens * (8 * hidden + 2 * experts));
  return weightCount(shape) * BYTES_PER_WEIGHT[backward ? 'backward' : 'forward'] + activations;
}

/** Elements of the longest typed array that every supported Node.js can make. */
const LONGEST_ARRAY = 2 ** 32 - 1;

/** @throws MoeError ERR_OUT_OF_MEMORY */
export function checkMemory(
  shape: LayerShape,
  backward: boolean,
  available = process.availableMemory(),
): void {
  const { tokens, hidden, intermediate, experts, activation } = shape;
  const longest = Math.max(experts * hidden * intermediate * (isGated(activation) ? 2 : 1), tokens * hidden);
  if (longest > LONGEST_ARRAY) throw tooLarge(`at most ${LONGEST_ARRAY} elements in a tensor`, `${longest}`);
  const required = requiredBytes(shape, backward);
  if (required <= available) return;
  throw tooLarge(
    `a layer that fits ${gigabytes(available)} of available memory`,
    `one that needs ${gigabytes(required)}`,
  );
}

function tooLarge(expected: string, got: string): MoeError {
  return badArgument('ERR_OUT_OF_MEMORY', 'shape', expected, got);
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toLocaleString('en', { maximumFractionDigits: 1 })} GB`;
}
