// Runs the CUDA backend on the emulated device: the emulator's own tests, every op beside the CPU backend, then the
// conformance suite, each under several schedules.
import { spawnSync } from 'node:child_process';
import { resolve } from 'node:path';

const BUILD = resolve('build/simt');
const NATIVE = ['test/simt/simt_tests', 'test/simt/backend/simt_backend_tests'];
// Odd ones let half of the asynchronous copies complete at once, even ones none before they must.
const SEEDS = ['0', '1', '2'];
const SUITES = process.argv.length > 2 ? process.argv.slice(2) : ['test/conformance'];

for (const seed of SEEDS) {
  for (const test of NATIVE) run(`${BUILD}/${test}`, [], { MOE_SIMT_SEED: seed });
  run('npx', ['vitest', 'run', ...SUITES], {
    MOE_SIMT_SEED: seed,
    MOE_KERNELS_BINARY: `${BUILD}/Release/moe_kernels.node`,
    MOE_KERNELS_TEST_DEVICES: 'cuda:0',
  });
}

function run(command, args, env) {
  const { status } = spawnSync(command, args, { stdio: 'inherit', env: { ...process.env, ...env } });
  if (status !== 0) process.exit(status ?? 1);
}
