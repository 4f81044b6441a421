// A layer whose output is wrong, for commands that must refuse to time it.

import { vi } from 'vitest';
import { Workload } from '../../../bench/workload.ts';

/** While `call` runs, every forward pass returns a y of zeros. */
export async function withWrongForward<T>(call: () => Promise<T>): Promise<T> {
  const forward = Workload.prototype.forward;
  const spy = vi.spyOn(Workload.prototype, 'forward').mockImplementation(function (this: Workload, save) {
    const result = forward.call(this, save);
    result.y.write(new Float32Array(result.y.size));
    return result;
  });
  try {
    return await call();
  } finally {
    spy.mockRestore();
  }
}
