// Matrices read strip by strip: whole rows in their order, in place and transposed, whatever the strips' sizes.

import { expect, test } from 'vitest';
import { type StoredMatrix, stripBuffer, strips, transposed } from '../../src/weights/matrix.ts';

const ROWS = 7;
const COLUMNS = 5;
const VALUES = Float32Array.from({ length: ROWS * COLUMNS }, (_, i) => i + 1);

function inMemory(stripElements: number): StoredMatrix {
  return {
    ...{ dtype: 'float32', layerDType: 'float32', rows: ROWS, columns: COLUMNS, stripElements },
    read: async (top, into) => into.set(VALUES.subarray(top * COLUMNS, top * COLUMNS + into.length)),
  };
}

async function readAll(matrix: StoredMatrix): Promise<{ tops: number[]; values: number[] }> {
  const tops: number[] = [];
  const values: number[] = [];
  for await (const strip of strips(matrix, stripBuffer([matrix]))) {
    tops.push(strip.top);
    values.push(...strip.values);
  }
  return { tops, values };
}

test.each([
  [1, [0, 1, 2, 3, 4, 5, 6]],
  [11, [0, 2, 4, 6]],
  [100, [0]],
])('strips of %i elements', async (elements, tops) => {
  expect(await readAll(inMemory(elements))).toEqual({ tops, values: [...VALUES] });
});

test.each([
  [1, 1, [0, 1, 2, 3, 4]],
  [10, 15, [0, 2, 4]],
  [100, 21, [0, 3]],
  [10, 100, [0]],
])('strips of %i elements, of %i transposed', async (stored, elements, tops) => {
  const turned = { ...transposed(inMemory(stored)), stripElements: elements };
  const expected = Array.from(VALUES, (_, i) => VALUES[(i % ROWS) * COLUMNS + Math.floor(i / ROWS)]!);
  expect(await readAll(turned)).toEqual({ tops, values: expected });
});
