// What a GPU reaches at most, by events: one dense product that fills it, and copies that no cache holds.

import { DTYPES, type FloatDType } from '../src/dtype.ts';
import type { NativeGpu } from '../src/native.ts';
import { groupedMatmul } from '../src/ops/grouped-matmul.ts';
import { castInto, type DeviceName, empty, type Tensor, tensor } from '../src/tensor.ts';
import type { Ceilings } from './ceilings.ts';
import { timeOn } from './clock.ts';
import { gpuOf } from './gpu.ts';

/** @param seconds that the products take together at least, and the copies */
export function measureGpuCeilings(device: DeviceName, dtype: FloatDType, seconds: number): Ceilings {
  const { side, copiedBytes } = ceilingSizes(gpuOf(device)!, DTYPES[dtype].bytes);
  return {
    flopsPerSecond: (2 * side ** 3) / productSeconds(device, dtype, side, seconds),
    bytesPerSecond: (2 * copiedBytes) / copySeconds(device, copiedBytes, seconds),
  };
}

/** So much of the memory at most, for a GPU whose cache is large beside it. */
const MOST_MEMORY = 1 / 8;

/**
 * The side of square operands, and how much is copied. A GPU has a second-level cache in proportion to its multiprocessors: operands
 * of eight times its size are several tiles for each of them, and copies of sixteen times its size come from memory and go there.
 */
export function ceilingSizes(
  { l2Bytes, memoryBytes }: Pick<NativeGpu, 'l2Bytes' | 'memoryBytes'>,
  elementBytes: number,
): { readonly side: number; readonly copiedBytes: number } {
  const [operandBytes, copiedBytes] = [8, 16].map(times =>
    Math.min(times * l2Bytes, memoryBytes * MOST_MEMORY),
  );
  const side = Math.sqrt(operandBytes! / (3 * elementBytes));
  return {
    side: floorTo(side, side >= COARSE_STEP ? COARSE_STEP : FINE_STEP),
    copiedBytes: floorTo(copiedBytes!, 16),
  };
}

/** Whole tiles of every kernel. */
const COARSE_STEP = 256;
const FINE_STEP = 16;

function floorTo(value: number, step: number): number {
  return Math.max(step, Math.floor(value / step) * step);
}

function productSeconds(device: DeviceName, dtype: FloatDType, side: number, seconds: number): number {
  using rows = random([side, side], dtype, device);
  using weight = random([1, side, side], dtype, device);
  using offsets = tensor([0, side], [2], { dtype: 'int32', device });
  return leastSeconds(device, seconds, () => groupedMatmul({ rows, weight, offsets }).out.dispose());
}

/** Numbers that differ: a product of zeros takes less power, and so runs at higher clocks than any other. */
function random(shape: readonly number[], dtype: FloatDType, device: DeviceName): Tensor {
  const made = empty(shape, { dtype, device });
  const count = Math.min(made.size, MOST_NUMBERS);
  using numbers = tensor(
    Float32Array.from({ length: count }, () => Math.random() - 0.5),
    [count],
    {
      dtype,
      device,
    },
  );
  for (let at = 0; at < made.size; at += count) castInto(numbers, made, Math.min(at, made.size - count));
  return made;
}

/** Drawn by the host; the rest are copies. */
const MOST_NUMBERS = 1 << 20;

function copySeconds(device: DeviceName, bytes: number, seconds: number): number {
  using source = empty([bytes / DTYPES.float32.bytes], { device });
  using target = empty(source.shape, { device });
  return leastSeconds(device, seconds, () => castInto(source, target, 0));
}

/** Of one call, after some to warm up: a ceiling is what nothing disturbed. */
function leastSeconds(device: DeviceName, seconds: number, call: () => void): number {
  const calls = () => {
    for (let i = 0; i < CALLS; i++) call();
  };
  timeOn(device, calls);
  let least = Infinity;
  for (let total = 0; total < 1000 * seconds; ) {
    const elapsed = timeOn(device, calls);
    least = Math.min(least, elapsed);
    total += elapsed;
  }
  return least / CALLS / 1000;
}

/** Timed together, so that what the host takes for the first counts for little. */
const CALLS = 8;
