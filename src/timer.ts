// Times that a device takes itself, in the order of its ops: what a benchmark reads instead of the host's clock.

import { type NativeStamp, native, rethrow } from './native.ts';
import { callNative, checkDevice, type DeviceName, deviceId } from './tensor.ts';

/** A running timer, made by {@link startTimer}. */
export class Timer {
  readonly device: DeviceName;
  readonly #start: NativeStamp;

  /** @internal */
  constructor(device: DeviceName) {
    this.device = device;
    this.#start = callNative(() => native.stamp(deviceId(device)));
  }

  /**
   * Milliseconds from when the device came to the place of {@link startTimer} among its ops to when it comes to this one. May be
   * called again, for a later place.
   * @throws MoeError ERR_CAPTURE at the call while a graph is captured; what an op before failed with (rejection)
   */
  async stop(): Promise<number> {
    const id = deviceId(this.device);
    const stop = callNative(() => native.stamp(id));
    await native.finished(id).catch(rethrow);
    return callNative(() => native.milliseconds(id, this.#start, stop));
  }

  /**
   * As {@link stop}, but blocks until the device has come to this place.
   * @throws MoeError ERR_CAPTURE while a graph is captured; what an op before failed with
   */
  stopSync(): number {
    const id = deviceId(this.device);
    return callNative(() => {
      const stop = native.stamp(id);
      native.synchronize(id);
      return native.milliseconds(id, this.#start, stop);
    });
  }
}

/**
 * Starts a timer behind all that was enqueued on the device: `const timer = startTimer('cuda:0'); …ops…; const ms = await
 * timer.stop()`. On a GPU it reads CUDA events (half a microsecond), on the CPU the clock of its queue.
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_UNSUPPORTED, ERR_CAPTURE while a graph is captured
 */
export function startTimer(device: DeviceName = 'cpu'): Timer {
  checkDevice('device', device);
  return new Timer(device);
}
