// The test suites: everything on the instruction set chosen for this processor, the kernels' own on every other one it runs,
// and what runs on every device once more on an emulated GPU, under several schedules.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { resolve } from 'node:path';
import { defineConfig } from 'vitest/config';
import type { Native } from './src/native.ts';
import { findBrowser } from './test/page/browser.ts';

const CONFORMANCE = 'test/conformance';

const conformance = (...suites: string[]) => suites.map(suite => `${CONFORMANCE}/${suite}.test.ts`);

/** What depends on the instruction set. Layouts, low-rank pairs and shared experts put the same kernels together. */
const KERNEL_SUITES = conformance(
  'grouped-matmul',
  'activation',
  'route',
  'permute',
  'layer',
  'golden',
  'determinism',
);

/** What runs on every device imports the list of them. */
const DEVICE_SUITES = readdirSync(resolve(import.meta.dirname, CONFORMANCE))
  .filter(file => file.endsWith('.test.ts'))
  .map(file => `${CONFORMANCE}/${file}`)
  .filter(file => readFileSync(resolve(import.meta.dirname, file), 'utf8').includes('/support/targets.ts'));

/** What copies asynchronously, in every form: products and the routers that they are part of. */
const COPYING_SUITES = conformance('golden', 'grouped-matmul', 'layer', 'lora', 'route');

/** Products of rows that are aligned as those of capability 9.0 want them: others are multiplied by the same kernels on both. */
const PRODUCT_SUITES = conformance('determinism', 'golden', 'grouped-matmul', 'layer', 'lora');

/**
 * Under odd seeds half of the asynchronous copies complete at once, under even ones none before it must. A device of compute
 * capability 8.0 differs in its products alone.
 */
const SCHEDULES = [
  { seed: 1, capability: 90, suites: DEVICE_SUITES },
  // float16 differs from bfloat16 in conversions alone: once is enough.
  { seed: 0, capability: 80, suites: PRODUCT_SUITES, dtypes: 'float32,bfloat16' },
  { seed: 2, capability: 90, suites: COPYING_SUITES, dtypes: 'float32,bfloat16' },
];
const EMULATED = resolve(import.meta.dirname, 'build/simt/Release/moe_kernels.node');

const shared = {
  pool: 'forks' as const,
  execArgv: ['--expose-gc'],
  testTimeout: 60_000,
  hookTimeout: 60_000,
};
/** Native memory starts as NaN, so that an element which a kernel leaves unwritten fails every comparison. */
const env = { MOE_KERNELS_POISON: '1' };

const { MOE_KERNELS_BINARY: chosenBinary, MOE_KERNELS_TEST_DEVICES: chosenDevices } = process.env;
const require = createRequire(import.meta.url);
const binary: string = chosenBinary ?? require('node-gyp-build').resolve(import.meta.dirname);
const { instructionSet, instructionSets } = (require(binary) as Native).info();

/** That differ in rounding to bfloat16 alone, which the native tests check on every instruction set. */
const ALIKE = ['avx512', 'avx512bf16-floats'];
const isCovered = (name: string) =>
  name === instructionSet || (ALIKE.includes(name) && ALIKE.includes(instructionSet));
/** On a chosen device the processor's instruction sets play no part. */
const otherSets = chosenDevices ? [] : instructionSets.filter(name => !isCovered(name));
const instructionSetProjects = otherSets.map(name => ({
  test: { ...shared, name, include: KERNEL_SUITES, env: { ...env, MOE_KERNELS_ISA: name } },
}));

function emulatedProjects() {
  if (chosenBinary || chosenDevices) return [];
  if (!existsSync(EMULATED)) {
    console.warn(`No tests on the emulated GPU: ${EMULATED} is missing, which npm run build:simt makes.`);
    return [];
  }
  const launchLog = `${EMULATED}.launched`;
  const emulated = { ...env, MOE_KERNELS_BINARY: EMULATED, MOE_KERNELS_TEST_DEVICES: 'cuda:0' };
  return [
    ...SCHEDULES.map(({ seed, capability, suites, dtypes }) => ({
      test: {
        ...shared,
        name: `cuda:0 emulated, capability ${capability}, schedule ${seed}`,
        testTimeout: 300_000,
        include: suites,
        env: {
          ...emulated,
          ...(dtypes && { MOE_KERNELS_TEST_DTYPES: dtypes }),
          MOE_SIMT_SEED: `${seed}`,
          MOE_SIMT_CC: `${capability}`,
          MOE_SIMT_LAUNCH_LOG: launchLog,
        },
      },
    })),
    {
      test: {
        ...shared,
        name: 'slowed down',
        include: ['test/simt/slowdown.test.ts'],
        env: { ...env, MOE_KERNELS_BINARY: EMULATED },
      },
    },
    {
      test: {
        ...shared,
        name: 'cuda:0 emulated, every kernel',
        include: ['test/simt/every-kernel.test.ts'],
        globalSetup: 'test/simt/forget-launches.ts',
        // After all that launch kernels.
        sequence: { groupOrder: 1 },
        env: { ...emulated, MOE_SIMT_LAUNCH_LOG: launchLog },
      },
    },
  ];
}

function pageProjects() {
  if (chosenBinary || chosenDevices) return [];
  if (findBrowser() === undefined) {
    console.warn(
      'No tests of the page in a browser: none is on the PATH or in CHROME_PATH (Debian has chromium-headless-shell).',
    );
    return [];
  }
  return [{ test: { ...shared, name: 'page', include: ['test/page/**/*.test.ts'] } }];
}

export default defineConfig({
  test: {
    maxWorkers: availableParallelism(),
    projects: [
      {
        test: {
          ...shared,
          env,
          name: instructionSet,
          include: ['test/**/*.test.ts'],
          exclude: ['test/simt/**', 'test/page/**'],
        },
      },
      ...instructionSetProjects,
      ...emulatedProjects(),
      ...pageProjects(),
    ],
  },
});
