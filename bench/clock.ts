// How long a call keeps a device busy: by CUDA events, which a GPU sets in the order of its ops, or by the host's clock.

import { synchronize } from '../src/device.ts';
import type { DeviceName } from '../src/tensor.ts';
import { startTimer } from '../src/timer.ts';

/** `event`: a GPU's own, between two places among its ops. `wall`: the host's, from the call to when it finds the device idle. */
export type Clock = 'event' | 'wall';

export function clockOf(device: DeviceName): Clock {
  return device === 'cpu' ? 'wall' : 'event';
}

/** Milliseconds that an idle device takes to the end of what `call` enqueues. */
export function timeOn(device: DeviceName, call: () => void): number {
  synchronize(device);
  if (clockOf(device) === 'event') {
    const timer = startTimer(device);
    call();
    return timer.stopSync();
  }
  return timeUntilIdle(device, call);
}

/** The same by the host's clock. */
export function timeUntilIdle(device: DeviceName, call: () => void): number {
  return timeToReturn(() => {
    call();
    synchronize(device);
  });
}

/** Milliseconds that `call` takes by the host's clock. */
export function timeToReturn(call: () => void): number {
  const start = performance.now();
  call();
  return performance.now() - start;
}
