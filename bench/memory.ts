// Whether a layer fits: asked before anything is allocated, because an allocation that succeeds may still end the process.

import { isGated } from '../src/activation.ts';
import { badArgument, type MoeError } from '../src/errors.ts';
import type { RoutedShape } from './routed-shapes.ts';
import { weightCount } from './shapes.ts';

/**
 * An estimate from above of the memory a run needs at its peak, in bytes: weights, their gradients, what ops hold between them, and
 * what the check reads: of weights one expert's at a time, twice as float32 and once as float64, and those of the expert before, which
 * are collected late.
 */
export function requiredBytes(layer: RoutedShape, backward: boolean, elementBytes: number): number {
  const { tokens, hidden, intermediate, experts, topK, activation, logits = experts, slots = topK } = layer;
  const weights = weightCount(layer);
  const rowWidth = (isGated(activation) ? 4 : 2) * intermediate + 4 * hidden;
  const activations = 4 * tokens * (topK * rowWidth + 8 * hidden) + 8 * tokens * (8 * logits + 8 * slots);
  return (
    weights * elementBytes * (backward ? 2 : 1) +
    32 * (weights / experts) +
    32 * logits * hidden +
    activations
  );
}

/** Elements of the longest typed array that every supported Node.js can make. */
const LONGEST_ARRAY = 2 ** 32 - 1;

/**
 * @param name what the shape is called
 * @throws MoeError ERR_OUT_OF_MEMORY
 */
export function checkMemory(
  name: string,
  layer: RoutedShape,
  { backward, elementBytes }: { readonly backward: boolean; readonly elementBytes: number },
  available = process.availableMemory(),
): void {
  const { tokens, hidden, logits = layer.experts } = layer;
  const longest = tokens * Math.max(hidden, logits);
  if (longest > LONGEST_ARRAY)
    throw tooLarge(
      `at most ${LONGEST_ARRAY} elements in a matrix of tokens`,
      `${name}, which has ${longest}`,
    );
  const required = requiredBytes(layer, backward, elementBytes);
  if (required <= available) return;
  throw tooLarge(
    `a layer that fits ${gigabytes(available)} of available memory`,
    `${name}, which needs ${gigabytes(required)}`,
  );
}

function tooLarge(expected: string, got: string): MoeError {
  return badArgument('ERR_OUT_OF_MEMORY', 'shape', expected, got);
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toLocaleString('en', { maximumFractionDigits: 1 })} GB`;
}
