// The command line on the emulated GPU: `npm run simt -- verify FILE…`. Commands that take a device run on cuda:0.
import { spawnSync } from 'node:child_process';
import { resolve } from 'node:path';

const [command, ...options] = process.argv.slice(2);
const takesDevice = ['verify', 'bench', 'profile'].includes(command);
const device =
  takesDevice && !options.some(option => option.startsWith('--device')) ? ['--device', 'cuda:0'] : [];
const args = command === undefined ? [] : [command, ...device, ...options];
const { status } = spawnSync(process.execPath, ['--import', 'tsx', 'src/cli/main.ts', ...args], {
  stdio: 'inherit',
  env: { ...process.env, MOE_KERNELS_BINARY: resolve('build/simt/Release/moe_kernels.node') },
});
process.exit(status ?? 1);
