// What the machine reaches at most, measured beside what is timed, and the least time that a layer could take on it.

import { getThreads } from '../src/device.ts';
import type { FloatDType } from '../src/dtype.ts';
import { enumIndex, native } from '../src/native.ts';
import type { DeviceName } from '../src/tensor.ts';
import { measureGpuCeilings } from './gpu-ceilings.ts';

export interface Ceilings {
  /** Floating-point operations a second, of products of one dtype. */
  readonly flopsPerSecond: number;
  /** Bytes a second: on the CPU read from memory, on a GPU read and written. */
  readonly bytesPerSecond: number;
}

/** Longer finds nothing higher. */
const LONGEST_SECONDS = { cpu: 0.2, gpu: 0.1 };

/** The highest so far, by what they are of: nothing but what else runs can lower a ceiling. */
const found = new Map<string, Ceilings>();

/**
 * Measures the ceilings, once more where they are known: the higher counts, of each.
 * @param timeMs how long what stands beside them is measured at least: no shorter than either of them
 */
export function ceilingsOf(device: DeviceName, dtype: FloatDType, timeMs: number): Ceilings {
  const seconds = Math.min(LONGEST_SECONDS[device === 'cpu' ? 'cpu' : 'gpu'], timeMs / 1000);
  const now = device === 'cpu' ? measureCeilings(dtype, seconds) : measureGpuCeilings(device, dtype, seconds);
  const key = `${device} ${device === 'cpu' ? getThreads() : ''} ${dtype}`;
  const before = found.get(key) ?? now;
  const highest = {
    flopsPerSecond: Math.max(now.flopsPerSecond, before.flopsPerSecond),
    bytesPerSecond: Math.max(now.bytesPerSecond, before.bytesPerSecond),
  };
  found.set(key, highest);
  return highest;
}

/** Of the CPU, with every thread: register tiles on panels that stay in the first-level cache, and reads beyond every cache. */
export function measureCeilings(dtype: FloatDType, seconds: number): Ceilings {
  const { flops, bytes } = native.ceilings(enumIndex('dtype', dtype), seconds);
  return { flopsPerSecond: flops, bytesPerSecond: bytes };
}

/** Milliseconds: the larger of FLOPs ÷ peak and bytes ÷ bandwidth. */
export function floorMs(
  cost: { readonly flops: number; readonly bytes: number },
  { flopsPerSecond, bytesPerSecond }: Ceilings,
): number {
  return 1000 * Math.max(cost.flops / flopsPerSecond, cost.bytes / bytesPerSecond);
}
