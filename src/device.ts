// Devices, threads, waiting and memory: everything about where ops run.

import { checkInteger } from './check.ts';
import { binaryPath, native, rethrow } from './native.ts';
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
  /** What this build can say about CUDA, in one sentence. */
  readonly cuda: string;
}

/** The devices ops can run on here; `cpu` is always one of them. */
export function devices(): DeviceInfo[] {
  const { instructionSet, cudaDevices, cudaNames } = native.info();
  const gpus = Array.from({ length: cudaDevices }, (_, index) => ({
    name: `cuda:${index}` as const,
    description: cudaNames[index]!,
  }));
  return [{ name: 'cpu', description: instructionSet }, ...gpus];
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
  /** Bytes freed but kept by the process for the next tensors. */
  readonly pooledBytes: number;
}

/** Native memory in use. */
export function memory(): MemoryInfo {
  return native.memory();
}

/** Returns the memory kept for reuse to the operating system. */
export function trimMemory(): void {
  native.trimPool();
}
