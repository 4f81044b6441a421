// The Tensor handle: dtype, shape, device and native memory that is freed once, by dispose() or by the garbage collector.

import { markAsUntransferable } from 'node:worker_threads';
import { checkInteger, checkKeys } from './check.ts';
import { checkDType, DTYPES, type DType, describe, isDType, type TensorData } from './dtype.ts';
import { badArgument, MoeError } from './errors.ts';
import { filledHandle, retireHandle } from './handles.ts';
import { enumIndex, type NativeTensor, native, rethrow } from './native.ts';
import { type Calls, recall } from './recall.ts';
import { mayAnswerAtOnce } from './turn.ts';

/** More are copied by the device's thread, not by the caller's. */
const MOST_BYTES_AT_ONCE = 2 ** 16;

/** Where a tensor lives. */
export type DeviceName = 'cpu' | `cuda:${number}`;

/** A TypedArray accepted as tensor data; `Float16Array` where the runtime has it. */
export type TensorSource = Float32Array | Int32Array | Uint16Array;

export interface TensorOptions {
  /** Defaults to the array's own: float32, int32, float16 (`Float16Array`). A `Uint16Array` needs `bfloat16` or `float16` said. */
  dtype?: DType;
  /** Default `cpu`. */
  device?: DeviceName;
  /**
   * `false` lets the tensor share the array's memory (CPU only). The array must not be resized, transferred or, while
   * ops that use it are pending, changed. Its buffer is marked untransferable. Default `true`.
   */
  copy?: boolean;
}

/** The handle of a tensor, if it may be used. */
export let usableHandle: (tensor: Tensor) => NativeTensor | undefined;
/** What a new tensor is. Its shape is frozen. */
export interface TensorParts {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly device: DeviceName;
  readonly source?: TensorSource | undefined;
}
/** The tensor of a handle. */
export let adopt: (handle: NativeTensor, parts: TensorParts) => Tensor;

/**
 * A dense, row-major array in native memory.
 *
 * Created by {@link tensor}, {@link empty}, {@link zeros} and by the ops. Ops return tensors at once and fill them in the
 * order in which they were enqueued; only {@link Tensor.dataSync} and `synchronize()` wait.
 */
export class Tensor implements Disposable {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly device: DeviceName;
  #handle: NativeTensor | undefined;
  /** The array whose memory a zero-copy tensor shares. */
  readonly #source: TensorSource | undefined;

  static {
    usableHandle = tensor => (tensor.#isDetached ? undefined : tensor.#handle);
    adopt = (handle, parts) => new Tensor(handle, parts);
  }

  private constructor(handle: NativeTensor, { dtype, shape, device, source }: TensorParts) {
    this.#handle = handle;
    this.#source = source;
    this.dtype = dtype;
    this.shape = shape;
    this.device = device;
  }

  /** Number of elements. */
  get size(): number {
    return elementCount(this.shape);
  }

  /** Size in bytes. */
  get byteLength(): number {
    return this.size * DTYPES[this.dtype].bytes;
  }

  /** Whether the buffer that it shares is gone. */
  get #isDetached(): boolean {
    return this.#source !== undefined && this.#source.length !== this.size;
  }

  get disposed(): boolean {
    return this.#handle === undefined;
  }

  /**
   * The address of the first element, for native code: in device memory on a GPU. Valid until the tensor is disposed; what lies
   * there is what the ops before have written only in the device's order (`streamOf`, `signalStream`, `finished`).
   * @throws MoeError ERR_DISPOSED, ERR_DETACHED
   */
  get pointer(): bigint {
    const handle = useHandle('tensor', this);
    return callNative(() => native.pointer(handle));
  }

  /**
   * A copy of the elements once everything enqueued before has run; the event loop is free meanwhile. A small one that is ready, or
   * is within microseconds, resolves without a turn of the event loop, for a millisecond of each turn at most.
   * @returns Float32Array (float32), Int32Array (int32) or Uint16Array (the bits of bfloat16 and float16), in row-major order
   * @throws MoeError ERR_DISPOSED, ERR_DETACHED at the call; ERR_DEVICE, ERR_INDEX_RANGE (rejection) if an earlier op failed
   */
  async data(): Promise<TensorData> {
    const handle = useHandle('tensor', this);
    const out = new DTYPES[this.dtype].array(this.size);
    const small = out.byteLength <= MOST_BYTES_AT_ONCE;
    if (small && mayAnswerAtOnce() && callNative(() => native.readSettled(handle, out))) return out;
    await native.read(handle, out).catch(rethrow);
    return out;
  }

  /** As {@link Tensor.data}, but blocks the thread until the queue has come this far. */
  dataSync(): TensorData {
    const handle = useHandle('tensor', this);
    const out = new DTYPES[this.dtype].array(this.size);
    callNative(() => native.readSync(handle, out));
    return out;
  }

  /** The elements as float32, whatever the dtype (exact for every dtype but large int32). */
  async float32(): Promise<Float32Array> {
    if (this.dtype === 'float32') return (await this.data()) as Float32Array;
    using converted = this.cast('float32');
    return (await converted.data()) as Float32Array;
  }

  /**
   * Enqueues overwriting elements with a copy of `source`, taken at the call: all of them, or with `at` as many as `source` has,
   * from element `at` on. A tensor of more elements than an array can have is filled in parts.
   * @param source of the type that {@link Tensor.data} returns; without `at` as long as the tensor
   * @param options.at an element, counted in row-major order
   * @throws MoeError ERR_INVALID_ARGUMENT, ERR_DTYPE, ERR_SHAPE, ERR_DISPOSED, ERR_DETACHED
   */
  write(source: TensorSource, options: { at?: number } = {}): void {
    this.assertUsable('tensor');
    checkKeys('options', options, ['at']);
    const { at } = options;
    checkSource('source', source, this.dtype, this.size, at !== undefined);
    if (at !== undefined) checkInteger('options.at', at, 0, this.size - source.length);
    intoPart(this, at ?? 0, source.length, part => native.write(part, plainView(source)));
  }

  /**
   * A new tensor of the same shape in another dtype (round to nearest even).
   * @throws MoeError ERR_DTYPE if either side is int32 and the other is not float32
   */
  cast(dtype: DType): Tensor {
    checkDType('dtype', dtype);
    const pair = [this.dtype, dtype];
    if (pair.includes('int32') && this.dtype !== dtype && !pair.includes('float32')) {
      throw badArgument('ERR_DTYPE', 'dtype', 'float32 to or from int32', `${this.dtype} to ${dtype}`);
    }
    return recall(CASTS, { source: this, dtype }, castAnew);
  }

  /**
   * Another tensor on the same memory, with another shape. Each is disposed by itself; the memory goes with the last.
   * @throws MoeError ERR_SHAPE unless the shape has as many elements
   */
  reshape(shape: readonly number[]): Tensor {
    checkShape('shape', shape, this.dtype);
    if (elementCount(shape) !== this.size) {
      throw badArgument('ERR_SHAPE', 'shape', `${this.size} elements`, `[${shape.join(', ')}]`);
    }
    const handle = useHandle('tensor', this);
    const { dtype, device } = this;
    const frozen = Object.freeze([...shape]);
    const view = filledHandle(blank => native.view(blank, handle, frozen, 0));
    return adopt(view, { dtype, shape: frozen, device, source: this.#source });
  }

  /** Throws ERR_DISPOSED or ERR_DETACHED, with `name` in the sentence, if ops may not use this tensor. */
  assertUsable(name: string): void {
    if (this.#handle === undefined)
      throw new MoeError('ERR_DISPOSED', `${name}: expected a live tensor, got a disposed one`);
    if (this.#isDetached) {
      throw badArgument(
        'ERR_DETACHED',
        name,
        'a tensor whose shared buffer is intact',
        'one whose buffer was detached',
      );
    }
  }

  /** Frees the memory once pending ops no longer need it. Calling it again does nothing. */
  dispose(): void {
    const handle = this.#handle;
    this.#handle = undefined;
    if (handle !== undefined) retireHandle(handle);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  toString(): string {
    return `Tensor(${this.dtype} [${this.shape.join(', ')}] on ${this.device}${this.disposed ? ', disposed' : ''})`;
  }
}

/** The native handle of a tensor that may be used. */
export function useHandle(name: string, tensor: Tensor): NativeTensor {
  tensor.assertUsable(name);
  return usableHandle(tensor)!;
}

const CASTS: Calls = [];

function castAnew({ source: tensor, dtype }: { source: Tensor; dtype: DType }): Tensor {
  const source = useHandle('tensor', tensor);
  const out = empty(tensor.shape, { dtype, device: tensor.device });
  callNative(() => native.cast({ source, out: useHandle('out', out) }));
  return out;
}

/** Enqueues overwriting elements of `target`, from `at` on, with those of `source`, rounded to nearest even. */
export function castInto(source: Tensor, target: Tensor, at: number): void {
  const from = useHandle('source', source);
  intoPart(target, at, source.size, out => native.cast({ source: from, out }));
}

/** Calls with a handle on `count` elements of a tensor, from `at` on. */
function intoPart(tensor: Tensor, at: number, count: number, call: (part: NativeTensor) => void): void {
  const whole = useHandle('tensor', tensor);
  const part = filledHandle(blank => native.view(blank, whole, [count], at));
  try {
    callNative(() => call(part));
  } finally {
    retireHandle(part);
  }
}

/** Runs a call into the addon and turns its errors into MoeErrors. */
export function callNative<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    return rethrow(error);
  }
}

/**
 * A tensor holding `data`, copied (or shared, with `copy: false`).
 * @param data TypedArray or plain numbers, row-major; a Float32Array with a 16-bit `dtype` is rounded to it
 * @param shape dimensions; their product is the length of `data`
 * @throws MoeError ERR_SHAPE, ERR_DTYPE, ERR_INVALID_ARGUMENT, ERR_DETACHED, ERR_OUT_OF_MEMORY
 */
export function tensor(
  data: TensorSource | readonly number[],
  shape: readonly number[],
  options: TensorOptions = {},
): Tensor {
  checkDevice('options.device', options.device);
  checkShape('shape', shape, options.dtype ?? 'float32');
  const copy = options.copy ?? true;
  if (typeof copy !== 'boolean')
    throw badArgument('ERR_INVALID_ARGUMENT', 'options.copy', 'a boolean', describe(copy));
  if (Array.isArray(data)) {
    if (!copy)
      throw badArgument('ERR_INVALID_ARGUMENT', 'data', 'a TypedArray to share with copy: false', 'an array');
    const array = options.dtype === 'int32' ? Int32Array.from(data) : Float32Array.from(data);
    return tensor(array, shape, options);
  }
  const source = data as TensorSource;
  const dtype = checkDType('options.dtype', options.dtype ?? defaultDType(source));
  const stored = copy && source instanceof Float32Array && dtype !== 'int32' ? 'float32' : dtype;
  checkSource('data', source, stored, elementCount(shape));
  if (!copy) {
    if ((options.device ?? 'cpu') === 'cpu') return share(source, dtype, shape);
    throw badArgument('ERR_INVALID_ARGUMENT', 'options.copy', `true for ${options.device}`, 'false');
  }
  const out = empty(shape, { dtype: stored, device: options.device });
  try {
    out.write(source);
  } catch (error) {
    out.dispose();
    throw error;
  }
  if (stored === dtype) return out;
  using wide = out;
  return wide.cast(dtype);
}

/** What to make and where: float32 on the CPU unless said. */
export type EmptyOptions = Pick<TensorOptions, 'dtype' | 'device'>;

/** A tensor of undefined content, for an op to fill. */
export function empty(shape: readonly number[], options: EmptyOptions = {}): Tensor {
  const dtype = checkDType('options.dtype', options.dtype ?? 'float32');
  checkDevice('options.device', options.device);
  checkShape('shape', shape, dtype);
  const device = options.device ?? 'cpu';
  const frozen = Object.freeze([...shape]);
  const handle = filledHandle(blank =>
    native.allocate(blank, deviceId(device), enumIndex('dtype', dtype), frozen),
  );
  return adopt(handle, { dtype, shape: frozen, device });
}

/** Where native memory lies, and whose it is. */
export interface PointerOptions {
  /** Default `cpu`. */
  device?: DeviceName;
  /** Kept alive as long as the tensor, its views or pending ops use the memory. */
  owner?: object;
}

/**
 * A tensor over native memory of the caller's, without a copy: device memory of the GPU named (any of the process's, also managed
 * memory), or memory of the host. It must stay allocated until the tensor is disposed and the ops that use it have run; an `owner`
 * that frees it when collected sees to that. Order against streams that also use it is the caller's: `waitForStream`, `signalStream`.
 * @param pointer address of the first element, a multiple of the dtype's size; kernels move 16-byte packs where it is a multiple
 * of 16, with the same results. Any address for a tensor of no elements.
 * @param shape dense, row-major; that so much memory lies there cannot be checked
 * @throws MoeError ERR_INVALID_ARGUMENT (null, misaligned, an address that CUDA does not know), ERR_DEVICE_MISMATCH (memory of
 * another device or of the host), ERR_DTYPE, ERR_SHAPE, ERR_UNSUPPORTED
 */
export function tensorFromPointer(
  pointer: bigint,
  dtype: DType,
  shape: readonly number[],
  options: PointerOptions = {},
): Tensor {
  checkKeys('options', options, ['device', 'owner']);
  const { device = 'cpu', owner } = options;
  checkDevice('options.device', device);
  checkDType('dtype', dtype);
  checkShape('shape', shape, dtype);
  checkAddress('pointer', pointer);
  if (elementCount(shape) > 0) checkAlignment(pointer, DTYPES[dtype].bytes);
  if (owner !== undefined && (typeof owner !== 'object' || owner === null) && typeof owner !== 'function')
    throw badArgument('ERR_INVALID_ARGUMENT', 'options.owner', 'an object', describe(owner));
  const frozen = Object.freeze([...shape]);
  const handle = filledHandle(blank =>
    native.fromPointer(blank, enumIndex('dtype', dtype), frozen, pointer, deviceId(device), owner),
  );
  return adopt(handle, { dtype, shape: frozen, device });
}

function checkAlignment(pointer: bigint, bytes: number): void {
  if (pointer !== 0n && pointer % BigInt(bytes) === 0n) return;
  const got = pointer === 0n ? 'a null pointer' : `0x${pointer.toString(16)}`;
  throw badArgument('ERR_INVALID_ARGUMENT', 'pointer', `a multiple of ${bytes} bytes`, got);
}

/** An address or a native handle. */
export function checkAddress(name: string, value: unknown): bigint {
  if (typeof value !== 'bigint' || value < 0n || value >= 2n ** 64n) {
    throw badArgument('ERR_INVALID_ARGUMENT', name, 'a bigint from 0n to 2n ** 64n - 1n', describe(value));
  }
  return value;
}

/** A tensor of zeros. */
export function zeros(shape: readonly number[], options: EmptyOptions = {}): Tensor {
  return filled(0, shape, options);
}

/** A tensor of ones. */
export function ones(shape: readonly number[], options: EmptyOptions = {}): Tensor {
  return filled(1, shape, options);
}

function filled(value: number, shape: readonly number[], options: EmptyOptions): Tensor {
  const out = empty(shape, options);
  callNative(() => native.fill({ out: useHandle('out', out), value }));
  return out;
}

function share(source: TensorSource, dtype: DType, shape: readonly number[]): Tensor {
  const buffer = source.buffer as ArrayBuffer & { resizable?: boolean };
  if (buffer.resizable || (buffer as unknown as { growable?: boolean }).growable) {
    throw badArgument(
      'ERR_INVALID_ARGUMENT',
      'data',
      'a buffer of fixed length with copy: false',
      'a resizable one',
    );
  }
  if (buffer instanceof ArrayBuffer) markAsUntransferable(buffer);
  const frozen = Object.freeze([...shape]);
  const handle = filledHandle(blank =>
    native.wrap(blank, enumIndex('dtype', dtype), frozen, plainView(source)),
  );
  return adopt(handle, { dtype, shape: frozen, device: 'cpu', source });
}

function defaultDType(source: unknown): DType {
  if (source instanceof Float32Array) return 'float32';
  if (source instanceof Int32Array) return 'int32';
  if (isFloat16Array(source)) return 'float16';
  if (source instanceof Uint16Array) {
    throw badArgument('ERR_DTYPE', 'options.dtype', 'bfloat16 or float16 for a Uint16Array', 'undefined');
  }
  throw badArgument(
    'ERR_INVALID_ARGUMENT',
    'data',
    'a Float32Array, Int32Array, Uint16Array or Float16Array',
    describe(source),
  );
}

function isFloat16Array(value: unknown): boolean {
  return Object.prototype.toString.call(value) === '[object Float16Array]';
}

/** Node-API 9 does not know Float16Array: the addon sees its bits. */
function plainView(source: TensorSource): TensorSource {
  if (!isFloat16Array(source)) return source;
  return new Uint16Array(source.buffer, source.byteOffset, source.length);
}

function checkSource(name: string, source: unknown, dtype: DType, size: number, part = false): void {
  const fits = source instanceof DTYPES[dtype].array || (dtype === 'float16' && isFloat16Array(source));
  if (!fits)
    throw badArgument('ERR_DTYPE', name, `${DTYPES[dtype].array.name} for ${dtype}`, describe(source));
  const { length, buffer } = source as TensorSource;
  if (length === 0 && size > 0 && isDetached(buffer)) {
    throw badArgument('ERR_DETACHED', name, 'an intact buffer', 'a detached one');
  }
  if (part ? length <= size : length === size) return;
  throw badArgument('ERR_SHAPE', name, `${part ? 'at most ' : ''}${size} elements`, `${length}`);
}

/** A detached buffer is the one that no view can be made of; `ArrayBuffer.prototype.detached` is newer than Node 20. */
function isDetached(buffer: ArrayBufferLike): boolean {
  try {
    new Uint8Array(buffer);
    return false;
  } catch {
    return true;
  }
}

export function elementCount(shape: readonly number[]): number {
  let count = 1;
  for (const size of shape) count *= size;
  return count;
}

function checkShape(name: string, shape: unknown, dtype: unknown): void {
  if (
    !Array.isArray(shape) ||
    shape.length > 8 ||
    !shape.every(size => Number.isInteger(size) && size >= 0)
  ) {
    throw badArgument('ERR_SHAPE', name, 'up to 8 non-negative integers', describe(shape));
  }
  const bytes = elementCount(shape) * (isDType(dtype) ? DTYPES[dtype].bytes : 1);
  if (!shape.every(size => size < 2 ** 31) || bytes > 2 ** 47) {
    throw badArgument('ERR_SHAPE', name, 'sizes below 2^31 and at most 2^47 bytes', `[${shape.join(', ')}]`);
  }
}

const AVAILABLE = new Set(native.info().gpus.map(({ index }) => `cuda:${index}`));

/** The number by which the addon knows a device: 0 the CPU, then the GPUs. */
export function deviceId(device: DeviceName): number {
  return device === 'cpu' ? 0 : Number(device.slice('cuda:'.length)) + 1;
}

export function checkDevice(name: string, device: unknown): void {
  if (device === undefined || device === 'cpu') return;
  if (typeof device === 'string' && /^cuda(:\d+)?$/.test(device)) {
    if (AVAILABLE.has(device)) return;
    throw new MoeError('ERR_UNSUPPORTED', `${name}: ${device} is not available: ${native.info().cuda}`);
  }
  throw badArgument('ERR_INVALID_ARGUMENT', name, 'cpu or cuda:N', describe(device));
}
