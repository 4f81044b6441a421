// Loads the addon and says what it exports. Nothing else in the package touches the binary.

import { createRequire } from 'node:module';
import { MoeError } from './errors.ts';
import { packageRoot } from './package.ts';

/** An opaque tensor of the addon: native memory, its dtype and its shape. */
export interface NativeTensor {
  readonly __native: 'tensor';
}

/** The ops of a call, to be enqueued again for other tensors. */
export interface NativeProgram {
  readonly __native: 'program';
}

/** A place in a device's order, with the time at which it was reached. */
export interface NativeStamp {
  readonly __native: 'stamp';
}

/** Ops to be run again. */
export interface NativeGraph {
  readonly __native: 'graph';
}

/** Arguments of a native op: tensors by name, enumerations by their index in `Native.enums`, flags and numbers. */
export type NativeArgs = Record<string, NativeTensor | number | boolean | undefined>;

export interface NativeInfo {
  readonly instructionSet: string;
  readonly instructionSets: readonly string[];
  readonly cores: number;
  readonly cuda: string;
  /** GPUs that ops can run on, by the number that CUDA gives them. */
  readonly gpus: readonly NativeGpu[];
  /** Of CUDA, such as `13.0`: the newest that the driver supports, and the one that is linked. Meaningful where there are GPUs. */
  readonly cudaDriver: string;
  readonly cudaRuntime: string;
}

export interface NativeGpu {
  readonly index: number;
  readonly name: string;
  /** Such as `9.0`. */
  readonly computeCapability: string;
  /** Of the second-level cache. */
  readonly l2Bytes: number;
  readonly memoryBytes: number;
  /** The highest of its multiprocessors. */
  readonly clockMHz: number;
}

export interface NativeMemory {
  readonly tensors: number;
  readonly bytes: number;
  readonly pooledBytes: number;
  readonly pinnedBytes: number;
  readonly pools: readonly {
    readonly gpu: number;
    readonly inUse: number;
    readonly reserved: number;
    readonly peak: number;
  }[];
}

/** An op that a device ran, or a stage of one, in nanoseconds since the recording began. */
export interface NativeSpan {
  readonly op: NativeOp;
  /** Absent for the op as a whole. */
  readonly stage?: string;
  readonly beginNs: number;
  readonly endNs: number;
}

/** Ops the queue runs in order; each checks shapes once more, enqueues and returns. */
export type NativeOp =
  | 'fill'
  | 'cast'
  | 'route'
  | 'routeBackward'
  | 'routerLoss'
  | 'updateSelectionBias'
  | 'dispatch'
  | 'gather'
  | 'combine'
  | 'combineBackward'
  | 'groupedMatmul'
  | 'groupedMatmulDgrad'
  | 'groupedMatmulWgrad'
  | 'expertsForward'
  | 'expertsBackward';

/** Enumerations whose names the addon tells, in the order of their values. */
export type NativeEnum =
  | 'dtype'
  | 'activation'
  | 'score'
  | 'softmaxOver'
  | 'groupScore'
  | 'choice'
  | 'dropPolicy'
  | 'noiseKind'
  | 'float32Matmul';

export type Native = Record<NativeOp, (args: NativeArgs) => void> & {
  readonly enums: Readonly<Record<NativeEnum, readonly string[]>>;
  info(): NativeInfo;
  memory(): NativeMemory;
  trimPool(): void;
  /**
   * The most bytes of a device's memory that tensors and workspaces of the process held at once, since this was last asked. On a GPU,
   * `memory()` begins anew with its peak too.
   */
  restartPeak(device: number): number;
  setThreads(count: number): void;
  getThreads(): number;
  setFloat32Matmul(setting: number): void;
  getFloat32Matmul(): number;
  /** What the CPU reaches at most with every thread, measured for `seconds` each: FLOP/s of products of a dtype, bytes/s read. */
  ceilings(dtype: number, seconds: number): { readonly flops: number; readonly bytes: number };
  /** Milliseconds that fixed work takes on every thread, arithmetic and reading memory. */
  ruler(): number;
  /**
   * From here to `endStages`, the device notes when each op and each of its stages begins and ends: on a GPU those of this thread, on
   * the CPU those of the process.
   */
  startStages(device: number): void;
  /** Ends the recording. Ops of the CPU that have not ended by then are not in it; those of a GPU are waited for. */
  endStages(device: number): readonly NativeSpan[];
  /** A handle without a tensor, for the next four to fill, or for `run`. */
  blank(): NativeTensor;
  /** Uninitialised memory for a tensor. */
  allocate(blank: NativeTensor, device: number, dtype: number, shape: readonly number[]): void;
  /** A tensor over the caller's buffer, which is kept alive as long as native code may touch it. */
  wrap(blank: NativeTensor, dtype: number, shape: readonly number[], view: ArrayBufferView): void;
  /** A tensor over memory at an address, which the addon checks to be the device's; `owner` is kept alive as long as it is used. */
  fromPointer(
    blank: NativeTensor,
    dtype: number,
    shape: readonly number[],
    pointer: bigint,
    device: number,
    owner: object | undefined,
  ): void;
  /** Another handle on the same memory, or on a part of it: the shape's elements, from element `at` on. */
  view(blank: NativeTensor, tensor: NativeTensor, shape: readonly number[], at: number): void;
  /** The address of a tensor's first element. */
  pointer(tensor: NativeTensor): bigint;
  /** Leaves the handle blank. */
  release(tensor: NativeTensor): void;
  /** From here to `endRecording`, what is done with the tensors given and those made is remembered as well as done. */
  beginRecording(...given: NativeTensor[]): void;
  /** Undefined where doing it again would not make the same results of other tensors. */
  endRecording(...results: NativeTensor[]): NativeProgram | undefined;
  /** Enqueues what was recorded: the tensors given, of the same dtypes and shapes, then blank handles for the results. */
  run(program: NativeProgram, ...tensors: NativeTensor[]): void;
  /** Enqueues a copy of `view` (staged at the call) into the tensor. */
  write(tensor: NativeTensor, view: ArrayBufferView): void;
  readSync(tensor: NativeTensor, into: ArrayBufferView): void;
  /**
   * As `readSync` where everything enqueued before has run, or does within microseconds, and no promise of an earlier call is left to
   * settle; otherwise false, and nothing is read.
   */
  readSettled(tensor: NativeTensor, into: ArrayBufferView): boolean;
  read(tensor: NativeTensor, into: ArrayBufferView): Promise<void>;
  synchronize(device: number): void;
  finished(device: number): Promise<void>;
  /** The native stream of a GPU. */
  stream(device: number): bigint;
  waitForStream(device: number, stream: bigint): void;
  signalStream(device: number, stream: bigint): void;
  stamp(device: number): NativeStamp;
  /** Between two stamps that have been reached. */
  milliseconds(device: number, from: NativeStamp, to: NativeStamp): number;
  /** From here to `endCapture`, the device's ops are collected instead of run. */
  beginCapture(device: number): void;
  /** Ends the capture even where it throws what an op was refused for. */
  endCapture(device: number): NativeGraph;
  replay(device: number, graph: NativeGraph): void;
  releaseGraph(graph: NativeGraph): void;
};

const require = createRequire(import.meta.url);

/** Environment variable that names the exact addon file to load instead of searching for one. */
export const BINARY_VARIABLE = 'MOE_KERNELS_BINARY';

/** Built from source first, then the prebuild for this platform, then an error that says what to do. */
function load(): { addon: Native; path: string } {
  const root = packageRoot();
  const search = require('node-gyp-build') as { (root: string): Native; resolve(root: string): string };
  const chosen = process.env[BINARY_VARIABLE];
  try {
    const path = chosen ?? search.resolve(root);
    return { addon: require(path) as Native, path };
  } catch (cause) {
    const reason = (cause as Error).message.split('\n')[0];
    throw new MoeError(
      'ERR_BINARY',
      chosen
        ? `${BINARY_VARIABLE}: ${chosen} could not be loaded (${reason})`
        : `moe-kernels has no native addon for ${process.platform}-${process.arch} (${reason}); build it with a C++20 ` +
            `compiler and CMake: npx cmake-js@8 build --directory ${root}`,
      { cause },
    );
  }
}

const loaded = load();
export const native: Native = loaded.addon;
/** The addon file that was loaded. */
export const binaryPath: string = loaded.path;

/** The addon's number for an enumeration's name; the addon is the only place that numbers them. */
export function enumIndex(kind: keyof Native['enums'], name: string): number {
  return native.enums[kind].indexOf(name);
}

/** Turns an error thrown by the addon (`code` and message, not our class) into a MoeError. */
export function rethrow(error: unknown): never {
  const { code, message } = error as { code?: unknown; message: string };
  if (typeof code === 'string' && code.startsWith('ERR_') && !(error instanceof MoeError)) {
    throw new MoeError(code as MoeError['code'], message, { cause: error });
  }
  throw error;
}
