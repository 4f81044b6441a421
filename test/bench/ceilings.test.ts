// Ceilings that are measured again and again: what else runs must not make a share of the floor look high.

import { afterEach, expect, test, vi } from 'vitest';
import { ceilingsOf } from '../../bench/ceilings.ts';
import { getThreads, setThreads } from '../../src/device.ts';
import { native } from '../../src/native.ts';

const threads = getThreads();
afterEach(() => {
  vi.restoreAllMocks();
  setThreads(threads);
});

test('the highest so far count, each for itself, by dtype and threads', () => {
  const measured = vi.spyOn(native, 'ceilings');
  const measure = (dtype: 'float32' | 'bfloat16', flops: number, bytes: number) => {
    measured.mockReturnValueOnce({ flops, bytes });
    return ceilingsOf('cpu', dtype, 1);
  };
  setThreads(1);
  expect(measure('float32', 4, 3)).toEqual({ flopsPerSecond: 4, bytesPerSecond: 3 });
  expect(measure('float32', 2, 5)).toEqual({ flopsPerSecond: 4, bytesPerSecond: 5 });
  expect(measure('bfloat16', 2, 2)).toEqual({ flopsPerSecond: 2, bytesPerSecond: 2 });
  setThreads(2);
  expect(measure('float32', 1, 1)).toEqual({ flopsPerSecond: 1, bytesPerSecond: 1 });
  setThreads(1);
  expect(measure('float32', 1, 1)).toEqual({ flopsPerSecond: 4, bytesPerSecond: 5 });
});
