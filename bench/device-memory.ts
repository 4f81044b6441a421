// What the last-level caches of a device hold, and its memory.

import { memory } from '../src/device.ts';
import type { DeviceName } from '../src/tensor.ts';
import { gpuOf } from './gpu.ts';
import { lastLevelCacheBytes } from './last-level-cache.ts';

/** Of a GPU, available is what this process does not use: what others do is not known. */
export function memoryOf(device: DeviceName): {
  readonly cacheBytes: number;
  readonly availableBytes: number;
} {
  const gpu = gpuOf(device);
  if (!gpu) return { cacheBytes: lastLevelCacheBytes(), availableBytes: process.availableMemory() };
  const inUse = memory().pools.find(pool => pool.device === device)?.bytesInUse ?? 0;
  return { cacheBytes: gpu.l2Bytes, availableBytes: gpu.memoryBytes - inUse };
}
