// Native streams: how a framework that enqueues CUDA work of its own keeps the two in order, without waiting on the host.

import { badArgument } from './errors.ts';
import { native } from './native.ts';
import { callNative, checkAddress, checkDevice, type DeviceName, deviceId } from './tensor.ts';

/**
 * The `cudaStream_t` that this thread's ops on a GPU are enqueued on, in the order of the calls. Native code may put work on it
 * too: it runs after the ops called before, and before those called after. It lives as long as the thread.
 * @throws MoeError ERR_UNSUPPORTED for the CPU, which has none; ERR_INVALID_ARGUMENT
 */
export function streamOf(device: DeviceName): bigint {
  return callNative(() => native.stream(gpuId(device)));
}

/**
 * Ops called from now on run after all that `stream` has been given so far: say so before an op reads what another stream writes.
 * The host does not wait.
 * @param stream a `cudaStream_t` of the device; 0n is the legacy default stream
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_UNSUPPORTED, ERR_DEVICE_MISMATCH for a stream of another device, ERR_CAPTURE while
 * either captures a graph
 */
export function waitForStream(device: DeviceName, stream: bigint): void {
  const id = gpuId(device);
  callNative(() => native.waitForStream(id, checkAddress('stream', stream)));
}

/**
 * What `stream` is given from now on runs after all ops called so far: say so before another stream reads what an op writes, or
 * overwrites what one reads. The host does not wait.
 * @param stream a `cudaStream_t` of the device; 0n is the legacy default stream
 * @throws MoeError as {@link waitForStream}
 */
export function signalStream(device: DeviceName, stream: bigint): void {
  const id = gpuId(device);
  callNative(() => native.signalStream(id, checkAddress('stream', stream)));
}

function gpuId(device: DeviceName): number {
  checkDevice('device', device);
  if (device === undefined || device === 'cpu') {
    throw badArgument('ERR_UNSUPPORTED', 'device', 'a device with streams, cuda:N', String(device));
  }
  return deviceId(device);
}
