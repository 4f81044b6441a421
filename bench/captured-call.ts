// A call as graphs that are captured once and launched again and again: what it takes without the host's work for each op.

import { capture } from '../src/graph.ts';
import type { DeviceName } from '../src/tensor.ts';
import type { Measured } from './measure.ts';

/** The same call, also what it runs untimed. What it made last stays until it is disposed. */
export function capturedCall<Call extends Measured>(device: DeviceName, call: Call): Call & Disposable {
  // CUDA loads kernels when they are first used, which a capture forbids.
  call.prepare();
  call.run();
  call.clear();
  const untimed = capture(device, call.prepare);
  const timed = capture(device, call.run);
  return {
    ...call,
    prepare: () => untimed.replay(),
    run: () => timed.replay(),
    clear: () => {},
    [Symbol.dispose]() {
      call.clear();
      untimed.dispose();
      timed.dispose();
    },
  };
}
