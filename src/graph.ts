// Graphs: ops enqueued once, to be run again as one. On a GPU a CUDA graph, whose launch costs the host a few microseconds however
// many ops it has; on the CPU the recorded ops.

import { describe } from './dtype.ts';
import { badArgument, MoeError } from './errors.ts';
import { type NativeGraph, native } from './native.ts';
import { callNative, checkDevice, type DeviceName, deviceId } from './tensor.ts';

/**
 * Ops of one device that {@link capture} collected.
 *
 * A replay reads the captured inputs where they lie and fills the captured outputs again: write new inputs in place
 * (`Tensor.write`, or native code), replay, read the outputs. Whatever the ops use stays in memory until the graph is disposed,
 * disposed tensors among it.
 */
export class Graph<T> implements Disposable {
  readonly device: DeviceName;
  /** What the captured function returned. Its tensors hold nothing before the first replay; they are the caller's to dispose. */
  readonly result: T;
  #handle: NativeGraph | undefined;

  /** @internal */
  constructor(device: DeviceName, handle: NativeGraph, result: T) {
    this.device = device;
    this.#handle = handle;
    this.result = result;
  }

  get disposed(): boolean {
    return this.#handle === undefined;
  }

  /**
   * Enqueues all ops of the graph, and returns at once. What they find wrong is thrown at the next wait.
   * @throws MoeError ERR_DISPOSED; ERR_CAPTURE while a graph is captured on the device
   */
  replay(): void {
    const handle = this.#handle;
    if (handle === undefined)
      throw new MoeError('ERR_DISPOSED', 'graph: expected a live graph, got a disposed one');
    callNative(() => native.replay(deviceId(this.device), handle));
  }

  /** Frees the graph and its memory once pending replays have run. Tensors of the result stay valid, as they are. */
  dispose(): void {
    const handle = this.#handle;
    this.#handle = undefined;
    if (handle !== undefined) native.releaseGraph(handle);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * Calls `fn` once, synchronously, and collects the ops that it enqueues on the device instead of running them.
 *
 * The arguments of the ops are fixed: shapes, options, tensors, and the step that a router draws noise by. Meanwhile the device can
 * do nothing else on this thread: reads (`data`), copies from the host (`tensor`, `write`, making a layer), waits, timers,
 * replays and another capture throw ERR_CAPTURE, so make inputs before. Tensors that `fn` disposes lend their memory to the ops after.
 * @example
 * const graph = capture('cuda:0', () => layer.forward(x));
 * x.write(tokens);
 * graph.replay();
 * const y = await graph.result.data();
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_UNSUPPORTED, ERR_CAPTURE; ERR_OUT_OF_MEMORY or ERR_DEVICE where an op cannot be
 * captured; and whatever `fn` throws. After an error the device is as before.
 */
export function capture<T>(device: DeviceName, fn: () => T): Graph<T> {
  checkDevice('device', device);
  if (typeof fn !== 'function') throw badArgument('ERR_INVALID_ARGUMENT', 'fn', 'a function', describe(fn));
  const id = deviceId(device);
  callNative(() => native.beginCapture(id));
  let result: T;
  try {
    result = fn();
    if (typeof (result as { then?: unknown } | undefined)?.then === 'function')
      throw badArgument(
        'ERR_INVALID_ARGUMENT',
        'fn',
        'a synchronous function',
        'one that returned a promise',
      );
  } catch (error) {
    abandon(id);
    throw error;
  }
  return new Graph(
    device,
    callNative(() => native.endCapture(id)),
    result,
  );
}

/** Ends a capture whose function threw: that error is the one to hear of. */
function abandon(device: number): void {
  try {
    native.releaseGraph(native.endCapture(device));
  } catch {}
}
