// An op whose mistake is in the data, where only the kernel can see it.

import { dispatch, tensor } from '../../../src/index.ts';

/** Enqueues a dispatch to an expert that does not exist: ERR_INDEX_RANGE at the next wait. */
export function enqueueBadOp(): void {
  using indices = tensor([0, 99], [2, 1], { dtype: 'int32' });
  for (const part of Object.values(dispatch({ indices, experts: 4 }))) part.dispose();
}
