// float32 matrices may be multiplied by tensor cores where that is asked for, and nowhere else.

import { afterEach, describe, expect, it } from 'vitest';
import {
  type Float32Matmul,
  getFloat32Matmul,
  groupedMatmul,
  route,
  setFloat32Matmul,
  type Tensor,
  tensor,
} from '../../src/index.ts';
import { relativeError } from '../support/compare.ts';
import { seeded } from '../support/random.ts';
import { DEVICES } from '../support/targets.ts';

const [R, N, C] = [70, 24, 90];

afterEach(() => setFloat32Matmul('float32'));

it('is float32 unless set, and nothing but these two', () => {
  expect(getFloat32Matmul()).toBe('float32');
  setFloat32Matmul('tf32');
  expect(getFloat32Matmul()).toBe('tf32');
  expect(() => setFloat32Matmul('bfloat16' as Float32Matmul)).toThrowError(
    expect.objectContaining({
      code: 'ERR_INVALID_ARGUMENT',
      message: 'setting: expected one of float32, tf32, got "bfloat16"',
    }),
  );
  expect(getFloat32Matmul()).toBe('tf32');
});

describe.each(DEVICES)('on %s', device => {
  const random = seeded(3);
  const normals = (shape: number[]) => {
    const count = shape.reduce((product, length) => product * length);
    return tensor(random.normals(count), shape, { device });
  };
  const both = (run: () => Tensor) =>
    (['float32', 'tf32'] as const).map(setting => {
      setFloat32Matmul(setting);
      return run().dataSync() as Float32Array;
    }) as [Float32Array, Float32Array];

  it('rounds the operands of a grouped matmul on a GPU', () => {
    const rows = normals([R, C]);
    const weight = normals([2, N, C]);
    const offsets = tensor(new Int32Array([0, 13, R]), [3], { device });
    const [exact, rounded] = both(() => groupedMatmul({ rows, weight, offsets }).out);
    const error = relativeError(rounded, exact);
    if (device === 'cpu') expect(error).toBe(0);
    else expect(error).toSatisfy((value: number) => value > 1e-5 && value < 6e-4);
  });

  it('leaves routers alone', () => {
    const x = normals([R, C]);
    const weight = normals([N, C]);
    const [exact, rounded] = both(() => route({ x, weight, topK: 2 }).logits);
    expect(rounded).toEqual(exact);
  });
});
