// No kernel is forgotten: every instantiation in the addon ran to its end in one of the suites on the emulated GPU. The tiles of the
// grouped products do in test/simt/backend, and are counted there likewise (every-product.ts).

import { expect, test } from 'vitest';
import { isProduct, kernelsOf } from './kernels.ts';

test('every kernel ran on the emulated GPU', () => {
  const kernels = kernelsOf(process.env.MOE_KERNELS_BINARY!, process.env.MOE_SIMT_LAUNCH_LOG!);
  expect(kernels.length).toBeGreaterThan(50);
  const forgotten = kernels.filter(kernel => !kernel.ran && !isProduct(kernel));
  expect(forgotten.map(({ name }) => name)).toEqual([]);
});
