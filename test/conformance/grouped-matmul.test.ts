// Grouped matmul, forward, dgrad and wgrad, against the reference: every shape at which a tile, a lane or a block ends.

import { describe, expect, test } from 'vitest';
import { groupedMatmul, groupedMatmulDgrad, groupedMatmulWgrad } from '../../src/index.ts';
import { type Groups, referenceDgrad, referenceMatmul, referenceWgrad } from '../reference/grouped-matmul.ts';
import { expectSameBytes, expectTwicePlain } from '../support/compare.ts';
import { plainPrecision, representable } from '../support/dtypes.ts';
import { tensorInLayout, transpose } from '../support/layouts.ts';
import { seeded } from '../support/random.ts';
import { TARGETS, type Target } from '../support/targets.ts';
import { download, upload } from '../support/tensors.ts';

interface MatmulCase {
  /** Rows of each expert. */
  counts: number[];
  width: number;
  inner: number;
}

const RAGGED: number[][] = [
  [1, 2, 3, 4, 5, 6, 7, 8, 9],
  [11, 12, 13, 15, 16, 17],
  [27, 28, 29, 31, 32, 33],
  [47, 48, 49, 63, 64, 65],
  [0, 0, 5, 0],
  [0, 171, 0, 3],
  [345],
  [0],
  [0, 0, 0],
];
const EDGES = [
  1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 27, 28, 29, 31, 32, 33, 47, 48, 49, 63, 64, 65,
];
const WIDE_EDGES = [127, 128, 129, 255, 256, 257, 300, 511, 513];
const DEEP_EDGES = [127, 129, 255, 257, 511, 512, 513, 1023, 1024, 1025, 1100];

const CASES: MatmulCase[] = [
  ...RAGGED.map(counts => ({ counts, width: 33, inner: 31 })),
  ...[...EDGES, ...WIDE_EDGES].map(width => ({ counts: [5, 9], width, inner: 7 })),
  ...[...EDGES, ...DEEP_EDGES].map(inner => ({ counts: [5, 9], width: 7, inner })),
  { counts: [2, 175], width: 270, inner: 67 },
  { counts: [2, 3], width: 3, inner: 0 },
  { counts: [2, 3], width: 0, inner: 3 },
  { counts: [3, 0, 20], width: 65, inner: 530 },
];

const title = ({ counts, width, inner }: MatmulCase) =>
  `groups of ${counts.join(', ')} rows, ${inner} columns to ${width}`;

function matmulInputs({ counts, width, inner }: MatmulCase, { dtype }: Target) {
  const random = seeded(counts.length + 7 * width + 11 * inner);
  let rowCount = 0;
  const offsets = [0, ...counts.map(count => (rowCount += count))];
  const values = (count: number, deviation = 1) => representable(dtype, random.normals(count, deviation));
  return {
    offsets,
    rowCount,
    experts: counts.length,
    rows: values(rowCount * inner),
    weight: values(counts.length * width * inner, 1 / Math.sqrt(inner)),
    bias: values(counts.length * width),
    dOut: values(rowCount * width),
  };
}

function uploadMatmul({ width, inner }: MatmulCase, target: Target, inputs: ReturnType<typeof matmulInputs>) {
  const { dtype, device } = target;
  const { experts, rowCount } = inputs;
  return {
    rows: upload(inputs.rows, [rowCount, inner], dtype, device),
    weight: upload(inputs.weight, [experts, width, inner], dtype, device),
    bias: upload(inputs.bias, [experts, width], dtype, device),
    dOut: upload(inputs.dOut, [rowCount, width], dtype, device),
    offsets: upload(inputs.offsets, [experts + 1], 'int32', device),
  };
}

/** A weight or its gradient, [E, N, C] as [E, C, N] or back. */
const turned = <V extends Float32Array | Float64Array>(
  values: V,
  experts: number,
  rows: number,
  columns: number,
) => transpose({ shape: [experts, rows, columns], values }).values;

const wide = (values: Float32Array) => Float64Array.from(values);

describe.each(TARGETS)('grouped matmul on $device in $dtype', target => {
  const { dtype, device } = target;
  const precision = plainPrecision(dtype);

  test.each(CASES.map(shape => ({ shape, title: title(shape) })))('$title', ({ shape }) => {
    const inputs = matmulInputs(shape, target);
    const { rows, weight, bias, dOut, offsets } = uploadMatmul(shape, target, inputs);
    const groups: Groups = { ...shape, offsets: inputs.offsets };

    const { out } = download(groupedMatmul({ rows, weight, bias, offsets }));
    const forward = [wide(inputs.rows), wide(inputs.weight), groups, wide(inputs.bias)] as const;
    expectTwicePlain('out', dtype, out, referenceMatmul(...forward), referenceMatmul(...forward, precision));

    const dRows = download(groupedMatmulDgrad({ dOut, weight, offsets }));
    const dgrad = [wide(inputs.dOut), wide(inputs.weight), groups] as const;
    expectTwicePlain('dRows', dtype, dRows, referenceDgrad(...dgrad), referenceDgrad(...dgrad, precision));

    const gradients = download(groupedMatmulWgrad({ dOut, rows, offsets, bias: true }));
    const wgrad = [wide(inputs.dOut), wide(inputs.rows), groups] as const;
    const exact = referenceWgrad(...wgrad);
    const plain = referenceWgrad(...wgrad, precision);
    expectTwicePlain('dWeight', dtype, gradients.dWeight, exact.dWeight, plain.dWeight);
    expectTwicePlain('dBias', dtype, gradients.dBias!, exact.dBias, plain.dBias);

    const { experts } = inputs;
    const { width, inner } = shape;
    const stored = turned(inputs.weight, experts, width, inner);
    const transposed = true;
    const other = { weight: upload(stored, [experts, inner, width], dtype, device), offsets, transposed };
    expectSameBytes('out, transposed', download(groupedMatmul({ rows, bias, ...other })).out, out);
    expectSameBytes('dRows, transposed', download(groupedMatmulDgrad({ dOut, ...other })), dRows);
    const wgradOther = download(groupedMatmulWgrad({ dOut, rows, offsets, bias: true, transposed }));
    const dWeight = turned(wgradOther.dWeight, experts, inner, width);
    expectSameBytes('dWeight, transposed', dWeight, gradients.dWeight);
    expectSameBytes('dBias, transposed', wgradOther.dBias, gradients.dBias!);
  });

  test.each([false, true])(
    'gate and up interleaved: the bits of gate before up; transposed %s',
    transposed => {
      const layout = { gateUpLayout: 'interleaved', transposed } as const;
      for (const half of EDGES) {
        const shape: MatmulCase = { counts: [5, 9], width: 2 * half, inner: 7 };
        const inputs = matmulInputs(shape, target);
        const { rows, weight, bias, offsets } = uploadMatmul(shape, target, inputs);
        const args = { rows, offsets, activation: 'geglu', savePreActivation: true } as const;
        const plain = download(groupedMatmul({ ...args, weight, bias }));
        const stored = <V extends Float32Array | Float64Array>(name: string, dims: number[], values: V) =>
          tensorInLayout(name, { shape: dims, values }, layout)[name]!;
        const other = stored('experts.gate_up', [2, 2 * half, 7], inputs.weight);
        const otherBias = stored('experts.gate_up_bias', [2, 2 * half], inputs.bias);
        const found = download(
          groupedMatmul({
            ...{ ...args, ...layout, weight: upload(other.values, other.shape, dtype, device) },
            bias: upload(otherBias.values, otherBias.shape, dtype, device),
          }),
        );
        expectSameBytes(`${half}`, found.out, plain.out);
        // Pre-activation columns lie as a bias does.
        const columns = stored('experts.gate_up_bias', [14, 2 * half], plain.preActivation!).values;
        expectSameBytes(`${half}`, found.preActivation, columns);
      }
    },
  );

  const small: MatmulCase = { counts: [4, 0, 19], width: 22, inner: 35 };

  test('no bias', () => {
    const inputs = matmulInputs(small, target);
    const { rows, weight, offsets } = uploadMatmul(small, target, inputs);
    const { out, preActivation } = download(groupedMatmul({ rows, weight, offsets }));
    const forward = [
      wide(inputs.rows),
      wide(inputs.weight),
      { ...small, offsets: inputs.offsets },
      undefined,
    ] as const;
    expectTwicePlain('out', dtype, out, referenceMatmul(...forward), referenceMatmul(...forward, precision));
    expect(preActivation).toBeUndefined();
  });

  test('a float32 bias beside the weights', () => {
    const inputs = matmulInputs(small, target);
    const { rows, weight, offsets } = uploadMatmul(small, target, inputs);
    const values = seeded(5).normals(inputs.bias.length);
    const bias = upload(values, [3, 22], 'float32', device);
    const { out } = download(groupedMatmul({ rows, weight, offsets, bias }));
    const groups = { ...small, offsets: inputs.offsets };
    const forward = [wide(inputs.rows), wide(inputs.weight), groups, wide(values)] as const;
    expectTwicePlain('out', dtype, out, referenceMatmul(...forward), referenceMatmul(...forward, precision));
  });

  test.each([...new Set([dtype, 'float32'] as const)])('gradients added to %s buffers', stored => {
    const inputs = matmulInputs(small, target);
    const { rows, dOut, offsets } = uploadMatmul(small, target, inputs);
    const random = seeded(6);
    const before = {
      weight: representable(stored, random.normals(inputs.weight.length)),
      bias: representable(stored, random.normals(inputs.bias.length)),
    };
    const into = {
      weight: upload(before.weight, [3, 22, 35], stored, device),
      bias: upload(before.bias, [3, 22], stored, device),
    };
    const result = groupedMatmulWgrad({ dOut, rows, offsets, accumulateInto: into });
    expect(result.dWeight).toBe(into.weight);
    expect(result.dBias).toBe(into.bias);
    const wgrad = [wide(inputs.dOut), wide(inputs.rows), { ...small, offsets: inputs.offsets }] as const;
    const exact = referenceWgrad(...wgrad);
    const plain = referenceWgrad(...wgrad, plainPrecision(stored));
    const { round } = plainPrecision(stored);
    for (const [name, into, gradient] of [
      ['weight', 'dWeight', 'dWeight'],
      ['bias', 'dBias', 'dBias'],
    ] as const) {
      const actual = download(result[into]!);
      const sum = exact[gradient].map((value, i) => value + before[name][i]!);
      const plainSum = plain[gradient].map((value, i) => round(value + before[name][i]!));
      expectTwicePlain(name, stored, actual, sum, plainSum);
    }
  });

  test('rows past the last group belong to none: zeros come of them, and nothing goes in', () => {
    const [counts, unused] = [[4, 0, 9], 6];
    const inputs = matmulInputs({ ...small, counts }, target);
    const { width, inner } = small;
    const used = inputs.rowCount;
    const padded = (values: Float32Array, columns: number) => {
      const all = new Float32Array((used + unused) * columns).fill(NaN);
      all.set(values);
      return upload(all, [used + unused, columns], dtype, device);
    };
    const [rows, dOut] = [padded(inputs.rows, inner), padded(inputs.dOut, width)];
    const { weight, offsets } = uploadMatmul({ ...small, counts }, target, inputs);
    const args = { weight, offsets };
    const { out, preActivation } = download(
      groupedMatmul({ rows, ...args, activation: 'relu', savePreActivation: true }),
    );
    const dRows = download(groupedMatmulDgrad({ dOut, ...args }));
    const { dWeight } = download(groupedMatmulWgrad({ dOut, rows, offsets }));
    const groups: Groups = { ...small, offsets: inputs.offsets };
    const wgrad = [wide(inputs.dOut), wide(inputs.rows), groups] as const;
    const exact = referenceWgrad(...wgrad).dWeight;
    expectTwicePlain('dWeight', dtype, dWeight, exact, referenceWgrad(...wgrad, precision).dWeight);
    for (const [name, values, columns] of [
      ['out', out, width],
      ['preActivation', preActivation!, width],
      ['dRows', dRows, inner],
    ] as const) {
      expect(values.subarray(used * columns), name).toEqual(new Float64Array(unused * columns));
      expect(values.subarray(0, used * columns).some(Number.isNaN), name).toBe(false);
    }
  });
});
