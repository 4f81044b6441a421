// A pass as graphs that are captured once and launched again and again: what it takes without the host's work for each op.

import { capture } from '../src/graph.ts';
import type { DeviceName } from '../src/tensor.ts';
import type { MeasuredPass } from './run.ts';

/** The same pass, also what it runs untimed. What it made last stays until it is disposed. */
export function capturedPass(device: DeviceName, pass: MeasuredPass): MeasuredPass & Disposable {
  // CUDA loads kernels when they are first used, which a capture forbids.
  pass.prepare();
  pass.run();
  pass.clear();
  const untimed = capture(device, pass.prepare);
  const timed = capture(device, pass.run);
  return {
    ...pass,
    prepare: () => untimed.replay(),
    run: () => timed.replay(),
    clear: () => {},
    [Symbol.dispose]() {
      pass.clear();
      untimed.dispose();
      timed.dispose();
    },
  };
}
