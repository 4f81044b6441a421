// Devices, threads, waiting and memory: everything about where ops run.

import { checkInteger, checkOneOf } from './check.ts';
import { binaryPath, enumIndex, native, rethrow } from './native.ts';
import { callNative, checkDevice, type DeviceName, deviceId } from './tensor.ts';

export interface DeviceInfo {
  readonly name: DeviceName;
  /** For the CPU: the instruction set chosen for this processor. For a GPU: its name. */
  readonly description: string;
}

export interface BackendInfo {
  /** The addon file in use. */
  readonly binary: string;
  /** The instruction set whose kernels were chosen for this processor. */
  readonly instructionSet: string;
  /** Every instruction set in this build that this processor can run, best first. */
  readonly instructionSets: readonly string[];
  /** Processor cores this process may use. */
  readonly cores: number;
  /** Threads the CPU backend uses. */
  readonly threads: number;
  /**
   * What this build can say about CUDA, in one sentence: the GPUs that were found, with what keeps any of them from being used; or
   * what is missing (a GPU, a driver, a newer driver, the backend itself).
   */
  readonly cuda: string;
}

/**
 * The devices ops can run on here; `cpu` is always one of them. GPUs have CUDA's numbers: one too old for the kernels is left
 * out, and {@link backendInfo} says why.
 */
export function devices(): DeviceInfo[] {
  const { instructionSet, gpus } = native.info();
  return [
    { name: 'cpu', description: instructionSet },
    ...gpus.map(({ index, name }) => ({ name: `cuda:${index}` as const, description: name })),
  ];
}

/** What was loaded and what it found on this machine. */
export function backendInfo(): BackendInfo {
  const { instructionSet, instructionSets, cores, cuda } = native.info();
  return { binary: binaryPath, instructionSet, instructionSets, cores, threads: native.getThreads(), cuda };
}

/**
 * Sets how many threads the CPU backend uses, for the whole process, from the next op on. Results do not depend on it.
 * The default is every core this process may use, or the environment variable `MOE_KERNELS_THREADS`.
 * @throws MoeError ERR_INVALID_ARGUMENT unless `count` is an integer from 1 to 1024
 */
export function setThreads(count: number): void {
  const checked = checkInteger('count', count, 1, 1024);
  callNative(() => native.setThreads(checked));
}

/** Threads the CPU backend uses. */
export function getThreads(): number {
  return native.getThreads();
}

/** How GPUs multiply float32 matrices. */
export const FLOAT32_MATMULS = ['float32', 'tf32'] as const;
export type Float32Matmul = (typeof FLOAT32_MATMULS)[number];

/**
 * Sets how grouped matmuls of float32 are made on GPUs, for the whole process, from the next op on: `float32`, the default, by fused
 * multiply-adds; `tf32` by tensor cores, which round both operands to 11 bits of significand and are several times as fast. Sums are
 * float32 either way. Routers always multiply in float32, operands of unequal dtypes too, and the CPU knows no other way.
 * @throws MoeError ERR_INVALID_ARGUMENT unless `setting` is `float32` or `tf32`
 */
export function setFloat32Matmul(setting: Float32Matmul): void {
  const checked = checkOneOf('setting', setting, FLOAT32_MATMULS);
  callNative(() => native.setFloat32Matmul(enumIndex('float32Matmul', checked)));
}

/** How grouped matmuls of float32 are made on GPUs. */
export function getFloat32Matmul(): Float32Matmul {
  return native.enums.float32Matmul[native.getFloat32Matmul()] as Float32Matmul;
}

/**
 * Blocks until everything enqueued on the device has run.
 * @throws MoeError ERR_DEVICE, ERR_INDEX_RANGE or ERR_OUT_OF_MEMORY if an op failed since the last wait
 */
export function synchronize(device: DeviceName = 'cpu'): void {
  checkDevice('device', device);
  callNative(() => native.synchronize(deviceId(device)));
}

/** Resolves once everything enqueued on the device so far has run; rejects as {@link synchronize} throws. */
export async function finished(device: DeviceName = 'cpu'): Promise<void> {
  checkDevice('device', device);
  await native.finished(deviceId(device)).catch(rethrow);
}

export interface MemoryInfo {
  /** Live tensors of this thread: neither disposed nor collected. */
  readonly tensors: number;
  /** Bytes of native memory they hold (shared buffers not counted). */
  readonly bytes: number;
  /** Bytes of the host freed but kept by the process for the next tensors. */
  readonly pooledBytes: number;
  /** Bytes of page-locked host memory kept for the next copies to and from GPUs. */
  readonly pinnedBytes: number;
  /** Device memory, for each GPU that the process has used. */
  readonly pools: readonly PoolInfo[];
}

/** CUDA's default pool of one GPU's memory, which all users of it in the process share: tensors, workspaces, graphs. */
export interface PoolInfo {
  readonly device: DeviceName;
  /** Bytes allocated and not yet freed; what was disposed counts until the device has come so far. */
  readonly bytesInUse: number;
  /** Bytes that the pool has from the driver: those in use, and those kept for the next. */
  readonly bytesReserved: number;
  /** The most bytes that were ever in use, or since a benchmark has last measured a peak of its own. */
  readonly peakBytes: number;
}

/** Native memory in use and kept for reuse. */
export function memory(): MemoryInfo {
  const { pools, ...host } = native.memory();
  return {
    ...host,
    pools: pools.map(({ gpu, inUse, reserved, peak }) => ({
      device: `cuda:${gpu}`,
      bytesInUse: inUse,
      bytesReserved: reserved,
      peakBytes: peak,
    })),
  };
}

/** Returns the memory kept for reuse to the operating system and to the drivers: host memory, page-locked memory, device pools. */
export function trimMemory(): void {
  callNative(() => native.trimPool());
}
