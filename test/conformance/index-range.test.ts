// Contents that no call can check, expert ids and offsets, are found while running, reported at the next wait, once, and
// leave the queue as good as new.

import { describe, expect, test } from 'vitest';
import {
  type Dispatch,
  dispatch,
  finished,
  groupedMatmul,
  groupedMatmulDgrad,
  groupedMatmulWgrad,
  moeBackward,
  moeForward,
  permute,
  permuteBackward,
  route,
  routeBackward,
  synchronize,
  type Tensor,
  unpermute,
  unpermuteBackward,
} from '../../src/index.ts';
import { layerInputs, uploadLayer } from '../support/layer.ts';
import { seeded } from '../support/random.ts';
import { DEVICES } from '../support/targets.ts';
import { download, free, upload } from '../support/tensors.ts';

const [T, H, E, K] = [3, 4, 3, 2];
const INT_MIN = -(2 ** 31);
const floats = (...shape: number[]) =>
  upload(seeded(1).normals(shape.reduce((a, b) => a * b)), shape, 'float32');
const ints = (values: number[], ...shape: number[]) => upload(values, shape, 'int32');
const experts = (last: number) => ints([0, 1, 2, 0, 1, last], T, K);
const permutation = (rowSlot: number[], slotRow: number[]): Dispatch => ({
  offsets: ints([0, 2, 4, 6], E + 1),
  rowSlot: ints(rowSlot, T * K),
  slotRow: ints(slotRow, T, K),
});
const IN_ORDER = [0, 1, 2, 3, 4, 5];
const matmul = (offsets: Tensor) => ({
  rows: floats(6, H),
  weight: floats(E, 5, H),
  dOut: floats(6, 5),
  offsets,
});

function givenLayer(last: number) {
  const layer = { tokens: T, hidden: H, intermediate: 3, experts: E, topK: K };
  const inputs = layerInputs(
    { ...layer, given: (t, k) => (t === T - 1 && k === K - 1 ? last : (t + k) % E) },
    'float32',
  );
  return { ...uploadLayer(inputs), activation: 'swiglu' as const };
}

const BAD_IDS = [E, -1, 2 ** 31 - 1, INT_MIN];
const BAD_OFFSETS = [
  [0, 3, 2, 6],
  [1, 2, 4, 6],
  [0, 2, 4, 7],
  [0, 2, 4, -1],
  [0, 2, 2 ** 31 - 1, 6],
  [0, INT_MIN, 4, 6],
  [-1, 2, 4, 6],
];
const BAD_ROWS = [
  [0, 1, 2, 3, 4, 6],
  [0, -3, 2, 3, 4, 5],
  [0, 1, 2 ** 31 - 1, 3, 4, 5],
];

type Run = () => unknown;
const CASES: [title: string, run: Run][] = [
  ...BAD_IDS.flatMap((id): [string, Run][] => [
    [`dispatch, expert ${id}`, () => dispatch({ indices: experts(id), experts: E })],
    [`permute, expert ${id}`, () => permute({ x: floats(T, H), indices: experts(id), experts: E })],
    [`moeForward, expert ${id}`, () => moeForward(givenLayer(id)).y],
    [
      `moeForward and moeBackward, expert ${id}`,
      () => {
        const { y, saved } = moeForward({ ...givenLayer(id), save: 'activations' });
        const gradients = moeBackward({ dy: floats(T, H), saved: saved! });
        saved!.dispose();
        return { y, gradients };
      },
    ],
    [
      `routeBackward, expert ${id}`,
      () => {
        const routing = route({ logits: floats(T, E), topK: K });
        routing.indices.write(Int32Array.of(0, 1, 2, 0, 1, id));
        return { routing, gradients: routeBackward({ routing, dWeights: floats(T, K) }) };
      },
    ],
  ]),
  ...BAD_IDS.map((id): [string, Run] => [
    `route, given expert ${id}`,
    () => route({ logits: floats(T, E), topK: K, indices: experts(id) }),
  ]),
  ['dispatch, fewer rows than slots', () => dispatch({ indices: experts(2), experts: E, rows: 5 })],
  ['dispatch, no rows', () => dispatch({ indices: experts(2), experts: E, rows: 0 })],
  [
    'dispatch, an expert with more slots than rows',
    () => dispatch({ indices: experts(1), experts: E, rowsPerExpert: 2 }),
  ],
  [
    'permute, an expert with more slots than rows',
    () => permute({ x: floats(T, H), indices: experts(1), experts: E, rowsPerExpert: 2 }),
  ],
  ...[E + 2, -1].map((id): [string, Run] => [
    `dispatch, expert ${id} with two identity experts`,
    () => dispatch({ indices: experts(id), experts: E, identityExperts: 2 }),
  ]),
  ...BAD_OFFSETS.flatMap((values): [string, Run][] => {
    const args = () => matmul(ints(values, E + 1));
    const of = `offsets ${values.join(', ')}`;
    return [
      [`groupedMatmul, ${of}`, () => (({ dOut: _, ...rest }) => groupedMatmul(rest))(args())],
      [`groupedMatmulDgrad, ${of}`, () => (({ rows: _, ...rest }) => groupedMatmulDgrad(rest))(args())],
      [`groupedMatmulWgrad, ${of}`, () => (({ weight: _, ...rest }) => groupedMatmulWgrad(rest))(args())],
    ];
  }),
  ...BAD_ROWS.flatMap((values): [string, Run][] => {
    const slotRows = () => permutation(IN_ORDER, values);
    const rowSlots = () => permutation(values, IN_ORDER);
    const of = values.join(', ');
    return [
      [`unpermute, rows ${of}`, () => unpermute({ rows: floats(6, H), dispatch: slotRows() })],
      [`permuteBackward, rows ${of}`, () => permuteBackward({ dRows: floats(6, H), dispatch: slotRows() })],
      [`unpermuteBackward, slots ${of}`, () => unpermuteBackward({ dy: floats(T, H), dispatch: rowSlots() })],
    ];
  }),
];

function expectQueueWorks(): void {
  const { indices } = download(route({ logits: upload([1, 3, 2], [1, 3], 'float32'), topK: 2 }));
  expect([...indices]).toEqual([1, 2]);
  synchronize();
}

const RANGE = {
  name: 'MoeError',
  code: 'ERR_INDEX_RANGE',
  message: expect.stringMatching(/^\w.*expected .+, got .+/),
};

describe.each(DEVICES)('index range on %s', device => {
  test.each(CASES)('%s', (_, run) => {
    synchronize(device);
    const result = run();
    let caught: unknown;
    try {
      synchronize(device);
    } catch (error) {
      caught = error;
    }
    expect(caught).toMatchObject(RANGE);
    free(result);
    expectQueueWorks();
  });

  test('identity experts and rows past the last that is used are no errors', () => {
    const results = [
      dispatch({ indices: experts(E + 1), experts: E, identityExperts: 2 }),
      unpermute({ rows: floats(6, H), dispatch: permutation([0, 1, 3, 5, -1, -1], [0, 1, -1, 2, -2, 3]) }),
      groupedMatmul((({ dOut: _, ...rest }) => rest)(matmul(ints([0, 2, 4, 5], E + 1)))),
      dispatch({ indices: experts(2), experts: E, rowsPerExpert: 2 }),
      dispatch({ indices: experts(E), experts: E, identityExperts: 1, rows: 5 }),
    ];
    synchronize(device);
    free(results);
  });

  const bad = () => dispatch({ indices: experts(E), experts: E });

  test('finished() rejects, once', async () => {
    const result = bad();
    await expect(finished(device)).rejects.toMatchObject(RANGE);
    await finished(device);
    free(result);
    expectQueueWorks();
  });

  test('data() rejects', async () => {
    const result = bad();
    await expect(result.offsets.data()).rejects.toMatchObject(RANGE);
    free(result);
    expectQueueWorks();
  });

  test('dataSync() throws', () => {
    const result = bad();
    expect(() => result.offsets.dataSync()).toThrow(expect.objectContaining(RANGE));
    free(result);
    expectQueueWorks();
  });
});
