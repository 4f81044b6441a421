// Formats (clang-format) and lints (clang-tidy) every C++ source. With --write, formats in place and stops there.
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';

/** The static analyzer is most of clang-tidy's time. Kernels run under an emulator that checks what it would look for. */
const WITHOUT_ANALYZER = ['--checks=-clang-analyzer-*'];
/** So many states of a function, where its default of 225,000 takes three times as long for the largest sources. */
const WITH_ANALYZER = ['-analyzer-config', 'max-nodes=50000'].flatMap(argument => [
  '--extra-arg=-Xclang',
  `--extra-arg=${argument}`,
]);

const write = process.argv.includes('--write');
const listed = execFileSync('git', ['ls-files', '*.h', '*.cpp', '*.cu', '*.cuh'], { encoding: 'utf8' }).split(
  '\n',
);
const sources = listed.filter(file => file !== '' && existsSync(file));

const formatted = await run('npx', [
  'clang-format',
  ...(write ? ['-i'] : ['--dry-run', '--Werror']),
  ...sources,
]);
const clean = write || (await tidy());
process.exitCode = formatted && clean ? 0 : 1;

/** One clang-tidy per core over the sources of the addon, of the native tests, and of CUDA as the emulator compiles it. */
async function tidy() {
  const waiting = [
    ...(await compiledIn(
      'build',
      'npx cmake-js configure --CDMOE_CUDA=OFF',
      file => !file.includes('/cuda/'),
    )),
    ...(await compiledIn('build/simt', 'npm run configure:simt', file => file.includes('/cuda/'))),
    ...(await compiledIn('build/asan', 'npm run configure:asan', file => file.includes('/test/native/'))),
  ];
  // The longest last would leave the other cores idle.
  waiting.sort((a, b) => statSync(b.file).size - statSync(a.file).size);
  let clean = true;
  const worker = async () => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      // Standard error only counts what was suppressed.
      clean =
        (await run('clang-tidy', ['-p', next.folder, '--quiet', ...next.checks, next.file], 'ignore')) &&
        clean;
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  return clean;
}

/** Those sources that a build folder compiles and `chosen` holds for; configures the folder where that was not done yet. */
async function compiledIn(folder, configure, chosen) {
  const commands = `${folder}/compile_commands.json`;
  if (!existsSync(commands)) {
    const [command, ...args] = configure.split(' ');
    await run(command, args);
  }
  return JSON.parse(readFileSync(commands, 'utf8'))
    .filter(({ file }) => chosen(file))
    .map(({ file }) => ({ folder, file, checks: file.endsWith('.cu') ? WITHOUT_ANALYZER : WITH_ANALYZER }));
}

/** Whether the command succeeded; its output goes to the terminal. */
function run(command, args, standardError = 'inherit') {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'inherit', standardError] });
    child.on('error', reject);
    child.on('exit', code => resolve(code === 0));
  });
}
