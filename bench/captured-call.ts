// A call as a graph that is captured once and launched again and again: what it takes without the host's work for each op.

import { capture } from '../src/graph.ts';
import type { DeviceName } from '../src/tensor.ts';
import type { Measured } from './measure.ts';

/** What the call made last stays until it is disposed. */
export function capturedCall<Call extends Measured & Disposable>(device: DeviceName, call: Call): Call {
  // CUDA loads kernels when they are first used, which a capture forbids.
  call.prepare();
  call.run();
  call.clear();
  call.prepare();
  const graph = capture(device, call.run);
  return {
    ...call,
    prepare: () => {},
    run: () => graph.replay(),
    clear: () => {},
    [Symbol.dispose]() {
      call.clear();
      graph.dispose();
      call[Symbol.dispose]();
    },
  };
}
