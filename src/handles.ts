// Native handles of tensors, which are used for one tensor after the other: a new one costs a weak reference and a finalizer, more
// than the memory of a small tensor does.

import { type NativeTensor, native, rethrow } from './native.ts';

const MOST_IDLE = 256;
const idle: NativeTensor[] = [];

/** A blank handle. */
export function takeHandle(): NativeTensor {
  return idle.pop() ?? native.blank();
}

/** Lets go of a handle's tensor, whose memory is freed once pending ops no longer need it. Nobody may use the handle from now on. */
export function retireHandle(handle: NativeTensor): void {
  native.release(handle);
  if (idle.length < MOST_IDLE) idle.push(handle);
}

/** A handle on the tensor that `fill` gives it. */
export function filledHandle(fill: (blank: NativeTensor) => void): NativeTensor {
  const handle = takeHandle();
  try {
    fill(handle);
    return handle;
  } catch (error) {
    retireHandle(handle);
    return rethrow(error);
  }
}
