// What is known of a GPU.

import { type NativeGpu, native } from '../src/native.ts';
import type { DeviceName } from '../src/tensor.ts';

/** Of a device's name; undefined for the CPU, and for a GPU that is not here. */
export function gpuOf(device: DeviceName): NativeGpu | undefined {
  return native.info().gpus.find(({ index }) => device === `cuda:${index}`);
}
