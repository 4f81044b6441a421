// Sizes of what a GPU's ceilings are measured with.

import { describe, expect, it } from 'vitest';
import { ceilingSizes } from '../../bench/gpu-ceilings.ts';

const [KIB, MIB, GIB] = [2 ** 10, 2 ** 20, 2 ** 30];

describe('sizes for a GPU', () => {
  it.each([
    // L2, memory, bytes of an element: the side and what is copied
    [60 * MIB, 139 * GIB, 2, 8960, 960 * MIB],
    [60 * MIB, 139 * GIB, 4, 6400, 960 * MIB],
    [2 * MIB, 4 * GIB, 2, 1536, 32 * MIB],
    // An eighth of the memory at most.
    [64 * MIB, 1 * GIB, 2, 4608, 128 * MIB],
    [16 * KIB, 8 * GIB, 4, 96, 256 * KIB],
    [0, 8 * GIB, 4, 16, 16],
  ])(
    'with %i bytes of cache, %i of memory, elements of %i',
    (l2Bytes, memoryBytes, elementBytes, side, copiedBytes) => {
      expect(ceilingSizes({ l2Bytes, memoryBytes }, elementBytes)).toEqual({ side, copiedBytes });
    },
  );
});
