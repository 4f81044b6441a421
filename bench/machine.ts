// What results were measured with, and whether others were measured with the same.

import { backendInfo } from '../src/device.ts';
import { type NativeGpu, native } from '../src/native.ts';
import { packageVersion } from '../src/package.ts';
import type { DeviceName } from '../src/tensor.ts';
import { caseKey } from './campaign.ts';
import { gpuOf } from './gpu.ts';
import { processorName } from './processor.ts';
import type { Result } from './result-file.ts';

/** The last five are of a GPU. */
export interface Machine {
  readonly instructionSet: string;
  /** As its maker calls it. */
  readonly processor: string;
  /** Of this package. */
  readonly version: string;
  /** As its maker calls it. */
  readonly deviceName?: string;
  readonly computeCapability?: string;
  /** The highest that its multiprocessors may have. */
  readonly clockMHz?: number;
  /** The newest CUDA that the driver supports. */
  readonly cudaDriver?: string;
  /** The CUDA that the addon was built with. */
  readonly cudaRuntime?: string;
}

export function machineOf(device: DeviceName): Machine {
  const gpu = gpuOf(device);
  return {
    ...{
      instructionSet: backendInfo().instructionSet,
      processor: processorName(),
      version: packageVersion(),
    },
    ...(gpu && gpuPart(gpu)),
  };
}

function gpuPart({ name, computeCapability, clockMHz }: NativeGpu): Partial<Machine> {
  const { cudaDriver, cudaRuntime } = native.info();
  return {
    ...{ deviceName: name, computeCapability, ...(clockMHz > 0 && { clockMHz }) },
    ...{ cudaDriver, cudaRuntime },
  };
}

/** By their cases, of several of one case the last. Results of another version, or of another machine, say nothing about this one. */
export function ofThisMachine<R extends Result>(results: readonly R[]): Map<string, R> {
  return new Map(results.filter(isOfThisMachine).map(result => [caseKey(result), result]));
}

function isOfThisMachine(result: Result): boolean {
  const here = machineOf(result.device);
  return (['processor', 'deviceName', 'instructionSet', 'version'] as const).every(
    field => result[field] === here[field],
  );
}
