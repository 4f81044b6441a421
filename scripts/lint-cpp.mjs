// Formats (clang-format) and lints (clang-tidy) every C++ source. With --write, formats in place and stops there.
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';

const write = process.argv.includes('--write');
const listed = execFileSync('git', ['ls-files', '*.h', '*.cpp'], { encoding: 'utf8' }).split('\n');
const sources = listed.filter(file => file !== '' && existsSync(file));

const formatted = await run('npx', [
  'clang-format',
  ...(write ? ['-i'] : ['--dry-run', '--Werror']),
  ...sources,
]);
const clean = write || (await tidy());
process.exitCode = formatted && clean ? 0 : 1;

/** One clang-tidy per core over the sources of the last configured build. */
async function tidy() {
  const commands = 'build/compile_commands.json';
  if (!existsSync(commands)) await run('npx', ['cmake-js', 'configure', '--CDMOE_CUDA=OFF']);
  const waiting = JSON.parse(readFileSync(commands, 'utf8')).map(entry => entry.file);
  let clean = true;
  const worker = async () => {
    for (let file = waiting.shift(); file !== undefined; file = waiting.shift()) {
      // Standard error only counts what was suppressed.
      clean = (await run('clang-tidy', ['-p', 'build', '--quiet', file], 'ignore')) && clean;
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  return clean;
}

/** Whether the command succeeded; its output goes to the terminal. */
function run(command, args, standardError = 'inherit') {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'inherit', standardError] });
    child.on('error', reject);
    child.on('exit', code => resolve(code === 0));
  });
}
