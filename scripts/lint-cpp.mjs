// Formats (clang-format) and lints (clang-tidy) every C++ source. With --write, formats in place and stops there.
import { execFileSync, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';

const run = (command, args) => execFileSync(command, args, { stdio: ['ignore', 'inherit', 'inherit'] });
const tracked = execFileSync('git', ['ls-files', '*.h', '*.cpp'], { encoding: 'utf8' }).split('\n').filter(Boolean);
const sources = tracked.filter(file => existsSync(file));
const write = process.argv.includes('--write');

run('npx', ['clang-format', ...(write ? ['-i'] : ['--dry-run', '--Werror']), ...sources]);
if (!write) await tidy();

/** One clang-tidy per core over the sources of the last configured build. */
async function tidy() {
  if (!existsSync('build/compile_commands.json')) run('npx', ['cmake-js', 'configure', '--CDMOE_CUDA=OFF']);
  const compiled = JSON.parse(execFileSync('cat', ['build/compile_commands.json'], { encoding: 'utf8' }));
  const waiting = compiled.map(entry => entry.file);
  const worker = async () => {
    for (let file = waiting.shift(); file !== undefined; file = waiting.shift()) await tidyFile(file);
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
}

/** clang-tidy's findings on standard output; what it suppressed, which it counts on standard error, is dropped. */
function tidyFile(file) {
  return new Promise((resolve, reject) => {
    const child = spawn('clang-tidy', ['-p', 'build', '--quiet', file], { stdio: ['ignore', 'inherit', 'ignore'] });
    child.on('error', reject);
    child.on('exit', code => (code === 0 ? resolve() : reject(new Error(`clang-tidy found something in ${file}`))));
  });
}
