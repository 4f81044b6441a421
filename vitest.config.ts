// The test suites: everything on the instruction set chosen for this processor, the kernels' own on every other one it runs.

import { createRequire } from 'node:module';
import { defineConfig } from 'vitest/config';
import type { Native } from './src/native.ts';

/** What depends on the instruction set. */
const KERNEL_SUITES = [
  ...['grouped-matmul', 'activation', 'route', 'permute', 'layer', 'layouts', 'lora', 'shared', 'golden'],
  'determinism',
];

const shared = {
  pool: 'forks' as const,
  execArgv: ['--expose-gc'],
  testTimeout: 60_000,
  hookTimeout: 60_000,
};
/** Native memory starts as NaN, so that an element which a kernel leaves unwritten fails every comparison. */
const env = { MOE_KERNELS_POISON: '1' };

const require = createRequire(import.meta.url);
const binary: string =
  process.env.MOE_KERNELS_BINARY ?? require('node-gyp-build').resolve(import.meta.dirname);
const { instructionSet, instructionSets } = (require(binary) as Native).info();

export default defineConfig({
  test: {
    projects: [
      { test: { ...shared, env, name: instructionSet, include: ['test/**/*.test.ts'] } },
      // On a chosen device the processor's instruction sets play no part.
      ...(process.env.MOE_KERNELS_TEST_DEVICES ? [] : instructionSets)
        .filter(name => name !== instructionSet)
        .map(name => ({
          test: {
            ...shared,
            env: { ...env, MOE_KERNELS_ISA: name },
            name,
            include: KERNEL_SUITES.map(suite => `test/conformance/${suite}.test.ts`),
          },
        })),
    ],
  },
});
