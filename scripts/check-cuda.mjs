// What the binary with every CUDA kernel promises, whether or not this machine has a GPU: its size, how soon it loads, and that
// it says what it found. That no kernel spills registers the compiler has seen to: it is told to refuse those.
import { execFileSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { resolve } from 'node:path';

const BINARY = resolve('build/Release/moe_kernels.node');
const MOST_BYTES = 40e6;
const MOST_MILLISECONDS = 100;

const PROGRAM = `
  const start = process.hrtime.bigint();
  const { cuda, gpus } = require(${JSON.stringify(BINARY)}).info();
  const milliseconds = Number(process.hrtime.bigint() - start) / 1e6;
  console.log(JSON.stringify({ milliseconds, cuda, gpus }));
`;

/** Loads the addon in a process of its own. */
function load() {
  return JSON.parse(execFileSync(process.execPath, ['-e', PROGRAM], { encoding: 'utf8' }));
}

const bytes = statSync(BINARY).size;
const loads = Array.from({ length: 5 }, load);
const milliseconds = Math.min(...loads.map(load => load.milliseconds));
const { cuda, gpus } = loads[0];

const wrong = [];
if (bytes > MOST_BYTES) wrong.push(`it has ${bytes} bytes: expected at most ${MOST_BYTES}`);
if (gpus.length === 0 && milliseconds > MOST_MILLISECONDS) {
  wrong.push(`it loads in ${milliseconds.toFixed(1)} ms: expected at most ${MOST_MILLISECONDS}`);
}
if (!/cuda:0|NVIDIA driver/.test(cuda)) wrong.push(`it says of CUDA: ${cuda}`);

console.log(
  `${BINARY}: ${(bytes / 1e6).toFixed(1)} MB, loads in ${milliseconds.toFixed(1)} ms, says: ${cuda}`,
);
for (const sentence of wrong) console.error(`moe_kernels.node: ${sentence}`);
process.exit(wrong.length === 0 ? 0 : 1);
