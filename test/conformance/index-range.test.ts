// Contents that no call can check, expert ids and offsets, are found while running, reported at the next wait, once, and
// leave the queue as good as new.

import { describe, expect, test } from 'vitest';
import {
  type DeviceName,
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
  unpermute,
  unpermuteBackward,
} from '../../src/index.ts';
import { layerInputs, uploadLayer } from '../support/layer.ts';
import { seeded } from '../support/random.ts';
import { DEVICES } from '../support/targets.ts';
import { download, free, upload } from '../support/tensors.ts';

const [T, H, E, K] = [3, 4, 3, 2];
const INT_MIN = -(2 ** 31);
const IN_ORDER = [0, 1, 2, 3, 4, 5];

function inputsOn(device: DeviceName) {
  const floats = (...shape: number[]) =>
    upload(seeded(1).normals(shape.reduce((a, b) => a * b)), shape, 'float32', device);
  const ints = (values: number[], ...shape: number[]) => upload(values, shape, 'int32', device);
  const experts = (last: number) => ints([0, 1, 2, 0, 1, last], T, K);
  const permutation = (rowSlot: number[], slotRow: number[]): Dispatch => ({
    offsets: ints([0, 2, 4, 6], E + 1),
    rowSlot: ints(rowSlot, T * K),
    slotRow: ints(slotRow, T, K),
  });
  const matmul = (offsets: number[]) => ({
    rows: floats(6, H),
    weight: floats(E, 5, H),
    dOut: floats(6, 5),
    offsets: ints(offsets, E + 1),
  });
  const givenLayer = (last: number) => {
    const layer = { tokens: T, hidden: H, intermediate: 3, experts: E, topK: K };
    const given = (t: number, k: number) => (t === T - 1 && k === K - 1 ? last : (t + k) % E);
    return {
      ...uploadLayer(layerInputs({ ...layer, given }, 'float32'), device),
      activation: 'swiglu' as const,
    };
  };
  return { floats, experts, permutation, matmul, givenLayer };
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

type Run = (inputs: ReturnType<typeof inputsOn>) => unknown;
const CASES: [title: string, run: Run][] = [
  ...BAD_IDS.flatMap((id): [string, Run][] => [
    [`dispatch, expert ${id}`, ({ experts }) => dispatch({ indices: experts(id), experts: E })],
    [
      `permute, expert ${id}`,
      ({ floats, experts }) => permute({ x: floats(T, H), indices: experts(id), experts: E }),
    ],
    [`moeForward, expert ${id}`, ({ givenLayer }) => moeForward(givenLayer(id)).y],
    [
      `moeForward and moeBackward, expert ${id}`,
      ({ floats, givenLayer }) => {
        const { y, saved } = moeForward({ ...givenLayer(id), save: 'activations' });
        const gradients = moeBackward({ dy: floats(T, H), saved: saved! });
        saved!.dispose();
        return { y, gradients };
      },
    ],
    [
      `routeBackward, expert ${id}`,
      ({ floats }) => {
        const routing = route({ logits: floats(T, E), topK: K });
        routing.indices.write(Int32Array.of(0, 1, 2, 0, 1, id));
        return { routing, gradients: routeBackward({ routing, dWeights: floats(T, K) }) };
      },
    ],
  ]),
  ...BAD_IDS.map((id): [string, Run] => [
    `route, given expert ${id}`,
    ({ floats, experts }) => route({ logits: floats(T, E), topK: K, indices: experts(id) }),
  ]),
  [
    'dispatch, fewer rows than slots',
    ({ experts }) => dispatch({ indices: experts(2), experts: E, rows: 5 }),
  ],
  ['dispatch, no rows', ({ experts }) => dispatch({ indices: experts(2), experts: E, rows: 0 })],
  [
    'dispatch, an expert with more slots than rows',
    ({ experts }) => dispatch({ indices: experts(1), experts: E, rowsPerExpert: 2 }),
  ],
  [
    'permute, an expert with more slots than rows',
    ({ floats, experts }) => permute({ x: floats(T, H), indices: experts(1), experts: E, rowsPerExpert: 2 }),
  ],
  ...[E + 2, -1].map((id): [string, Run] => [
    `dispatch, expert ${id} with two identity experts`,
    ({ experts }) => dispatch({ indices: experts(id), experts: E, identityExperts: 2 }),
  ]),
  ...BAD_OFFSETS.flatMap((values): [string, Run][] => {
    const of = `offsets ${values.join(', ')}`;
    return [
      [
        `groupedMatmul, ${of}`,
        ({ matmul }) => (({ dOut: _, ...rest }) => groupedMatmul(rest))(matmul(values)),
      ],
      [
        `groupedMatmulDgrad, ${of}`,
        ({ matmul }) => (({ rows: _, ...rest }) => groupedMatmulDgrad(rest))(matmul(values)),
      ],
      [
        `groupedMatmulWgrad, ${of}`,
        ({ matmul }) => (({ weight: _, ...rest }) => groupedMatmulWgrad(rest))(matmul(values)),
      ],
    ];
  }),
  ...BAD_ROWS.flatMap((values): [string, Run][] => {
    const of = values.join(', ');
    return [
      [
        `unpermute, rows ${of}`,
        ({ floats, permutation }) =>
          unpermute({ rows: floats(6, H), dispatch: permutation(IN_ORDER, values) }),
      ],
      [
        `permuteBackward, rows ${of}`,
        ({ floats, permutation }) =>
          permuteBackward({ dRows: floats(6, H), dispatch: permutation(IN_ORDER, values) }),
      ],
      [
        `unpermuteBackward, slots ${of}`,
        ({ floats, permutation }) =>
          unpermuteBackward({ dy: floats(T, H), dispatch: permutation(values, IN_ORDER) }),
      ],
    ];
  }),
];

function expectQueueWorks(device: DeviceName): void {
  const { indices } = download(route({ logits: upload([1, 3, 2], [1, 3], 'float32', device), topK: 2 }));
  expect([...indices]).toEqual([1, 2]);
  synchronize(device);
}

const RANGE = {
  name: 'MoeError',
  code: 'ERR_INDEX_RANGE',
  message: expect.stringMatching(/^\w.*expected .+, got .+/),
};

describe.each(DEVICES)('index range on %s', device => {
  const inputs = inputsOn(device);
  const { experts, floats, permutation, matmul } = inputs;

  test.each(CASES)('%s', (_, run) => {
    synchronize(device);
    const result = run(inputs);
    let caught: unknown;
    try {
      synchronize(device);
    } catch (error) {
      caught = error;
    }
    expect(caught).toMatchObject(RANGE);
    free(result);
    expectQueueWorks(device);
  });

  test('identity experts and rows past the last that is used are no errors', () => {
    const results = [
      dispatch({ indices: experts(E + 1), experts: E, identityExperts: 2 }),
      unpermute({ rows: floats(6, H), dispatch: permutation([0, 1, 3, 5, -1, -1], [0, 1, -1, 2, -2, 3]) }),
      groupedMatmul((({ dOut: _, ...rest }) => rest)(matmul([0, 2, 4, 5]))),
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
    expectQueueWorks(device);
  });

  test('data() rejects', async () => {
    const result = bad();
    await expect(result.offsets.data()).rejects.toMatchObject(RANGE);
    free(result);
    expectQueueWorks(device);
  });

  test('dataSync() throws', () => {
    const result = bad();
    expect(() => result.offsets.dataSync()).toThrow(expect.objectContaining(RANGE));
    free(result);
    expectQueueWorks(device);
  });
});
