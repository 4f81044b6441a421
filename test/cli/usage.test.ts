// The command line as a whole: help, information, wrong usage, and the real process.

import { describe, expect, test } from 'vitest';
import { PEER_NAMES } from '../../bench/peers/names.ts';
import { ROUTER_CHOICES } from '../../bench/routed-shapes.ts';
import { PASSES, SHAPES } from '../../bench/shapes.ts';
import { STAGES } from '../../bench/stages.ts';
import { backendInfo, devices } from '../../src/index.ts';
import { packageVersion } from '../../src/package.ts';
import { jsonLines, run, spawn } from './support/command.ts';
import { goldenFile } from './support/golden.ts';
import { temporaryFiles } from './support/safetensors.ts';

const { write } = temporaryFiles();

describe('help', () => {
  test('lists every command and the exit codes', async () => {
    const { exitCode, stdout, stderr } = await run('--help');
    for (const word of ['info', 'verify', 'bench', 'report', 'profile', 'Exit codes:'])
      expect(stdout).toContain(word);
    expect([exitCode, stderr]).toEqual([0, '']);
  });

  test.each([
    ['info', ['--json']],
    [
      'verify',
      ['<file...>', '--device', '--dtype', '--json', 'float32', 'bfloat16', 'float16', 'Exit codes:'],
    ],
    [
      'bench',
      [
        '--shape',
        '--activation',
        '--tokens',
        '--dtype',
        '--pass',
        '--device',
        '--threads',
        '--graph',
        '--min-time',
        '--out',
        '--csv',
        '--plan',
        '--baseline',
        '--tolerance',
        '--vs',
        '--rounds',
        '--python',
        '--ggml',
        'Examples:',
        '--json',
        'T,H,I,E,K',
      ],
    ],
    [
      'bench',
      [
        ...[...Object.keys(SHAPES), ...ROUTER_CHOICES, ...STAGES, ...PASSES, ...PEER_NAMES],
        ...['zipf:S', '--list'],
      ],
    ],
    ['profile', [...Object.keys(SHAPES), ...PASSES, '--tokens', '--out', '--trace', '--device']],
    ['report', ['<file...>', '--out', 'report.html', '--baseline', '--tolerance', '--json', 'Exit codes:']],
  ])('of %s lists %j', async (command, words) => {
    const { exitCode, stdout } = await run(command, '--help');
    for (const word of words) expect(stdout).toContain(word);
    expect(exitCode).toBe(0);
  });
});

describe('info', () => {
  test('for programs', async () => {
    const { exitCode, stdout } = await run('info', '--json');
    expect(jsonLines(stdout)).toEqual([{ version: packageVersion(), devices: devices(), ...backendInfo() }]);
    expect(exitCode).toBe(0);
  });

  test('for people', async () => {
    const { stdout } = await run('info');
    const { binary, instructionSet, cuda, threads, cores } = backendInfo();
    for (const part of [packageVersion(), binary, instructionSet, cuda, `${threads} on ${cores} cores`]) {
      expect(stdout).toContain(part);
    }
  });
});

describe('wrong usage is one sentence and exit code 2', () => {
  test.each([
    ['', 'expected a command (moe-kernels --help lists them)'],
    ['verfy', "unknown command 'verfy' (Did you mean verify?)"],
    ['verify', "missing required argument 'file'"],
    [
      'verify x --dtype int32',
      "option '--dtype <dtype>' argument 'int32' is invalid. Allowed choices are float32, bfloat16, float16.",
    ],
    ['verify x --threads 2', "unknown option '--threads'"],
    ['verify x --device tpu', '--device: expected cpu or cuda:N, got "tpu"'],
    ['info extra', "too many arguments for 'info'. Expected 0 arguments but got 1."],
    [
      'bench --shape mixtral',
      '--shape: expected a name that moe-kernels bench --list has, or five integers T,H,I,E,K, got "mixtral"',
    ],
    [
      'bench --shape constructor',
      '--shape: expected a name that moe-kernels bench --list has, or five integers T,H,I,E,K, got "constructor"',
    ],
    ['bench --shape 0,8,8,2,1', '--shape T: expected an integer from 1 to 2147483647, got 0'],
    ['bench --shape 4,8,8,2,3', '--shape K: expected an integer from 1 to 2, got 3'],
    [
      'bench --shape 4,8,99999999999,2,1',
      '--shape I: expected an integer from 1 to 2147483647, got 99999999999',
    ],
    [
      'bench --shape 99999,99999,8,2,1',
      'shape: expected at most 4294967295 elements in a matrix of tokens, got 99999,99999,8,2,1, which has 9999800001',
    ],
    ['bench --router softmin', `--router: expected one of ${ROUTER_CHOICES.join(', ')}, got "softmin"`],
    [
      'bench --shape 8,8,8,9,2 --router groups',
      '--router.groups.count: expected a divisor of 9 experts, got 2',
    ],
    [
      'bench --stage gather',
      '--stage: expected one of route, dispatch, up, down, combine, dgrad, wgrad, got "gather"',
    ],
    [
      'bench --stage up --pass forward',
      '--pass: expected nothing beside stages, each of which is part of one pass, got forward',
    ],
    [
      'profile --skew even',
      '--skew: expected router, uniform, zipf:S with a number S, one-hot or trace:FILE, got "even"',
    ],
    ['bench --shape 8,8,8,9,4 --router own,sparsemixer', '--router.topK: expected 2 with sparsemixer, got 4'],
    ['profile --router soft', `--router: expected one of ${ROUTER_CHOICES.join(', ')}, got "soft"`],
    ['bench --shape', "option '--shape <shape...>' argument missing"],
    ['bench --dtype float64', '--dtype: expected one of float32, bfloat16, float16, got "float64"'],
    ['bench --pass sideways', '--pass: expected one of forward, backward, both, got "sideways"'],
    [
      'bench --activation tanh',
      '--activation: expected one of identity, relu, gelu, gelu_tanh, silu, relu2, swiglu, geglu, geglu_tanh, reglu, swiglu_clamped, got "tanh"',
    ],
    ['bench --vs jax', `--vs: expected one of ${PEER_NAMES.join(', ')}, got "jax"`],
    ['bench --vs loop --rounds 5', '--rounds: expected an integer from 6 to 1000, got 5'],
    [
      'bench --vs torch --python /nowhere/python',
      '--vs: expected torch to be here, got spawn /nowhere/python ENOENT',
    ],
    ['bench --tolerance -1', '--tolerance: expected a number ≥ 0, got -1'],
    [
      'bench --baseline /nowhere/a.jsonl',
      '--baseline: expected a readable file, got /nowhere/a.jsonl (ENOENT)',
    ],
    ['bench --out /nowhere/a.jsonl', '--out: expected a writable file, got /nowhere/a.jsonl (ENOENT)'],
    ['bench --threads 1,0', '--threads: expected an integer from 1 to 1024, got 0'],
    ['bench --tokens 4,0', '--tokens: expected an integer from 1 to 2147483647, got 0'],
    ['bench --threads 0', '--threads: expected an integer from 1 to 1024, got 0'],
    ['bench --threads many', '--threads: expected an integer from 1 to 1024, got NaN'],
    ['bench --graph both', '--graph: expected off on cpu, which launches no graphs, got "both"'],
    ['bench --min-time 0', '--min-time: expected a positive number, got "0"'],
    ['report', "missing required argument 'file'"],
    ['bench --device tpu', '--device: expected cpu or cuda:N, got "tpu"'],
  ])('%s', async (line, sentence) => {
    const args = line.split(' ').filter(Boolean);
    expect(await run(...args)).toEqual({ exitCode: 2, stdout: '', stderr: `moe-kernels: ${sentence}\n` });
  });

  test.each(['bench --pass sideways', 'bench --csv', 'verify', 'verify x --device tpu'])(
    '%s --json',
    async line => {
      const { exitCode, stdout, stderr } = await run(...line.split(' '), '--json');
      const error = { code: 'ERR_INVALID_ARGUMENT', message: expect.any(String) };
      expect(jsonLines(stderr)).toEqual([{ error }]);
      expect([exitCode, stdout]).toEqual([2, '']);
    },
  );

  test('a device that this build has not', async () => {
    const { exitCode, stderr } = await run('bench', '--device', 'cuda:0', '--json');
    const message = `--device: cuda:0 is not available: ${backendInfo().cuda}`;
    expect(jsonLines(stderr)).toEqual([{ error: { code: 'ERR_UNSUPPORTED', message } }]);
    expect(exitCode).toBe(2);
  });
});

describe('the process', () => {
  test('exits with the code of what it found', () => {
    const file = write('good.safetensors', goldenFile());
    const { exitCode, stdout, stderr } = spawn(['verify', file, '--json']);
    expect(stderr).toBe('');
    expect(jsonLines(stdout)).toEqual([expect.objectContaining({ file, verdict: 'holds' })]);
    expect(exitCode).toBe(0);
  });

  test('without a working addon, says so in one sentence; help and the version need none', () => {
    const env = { MOE_KERNELS_BINARY: '/nowhere/moe_kernels.node' };
    const { exitCode, stderr, stdout } = spawn(['info'], env);
    expect(stderr).toMatch(
      /^moe-kernels: MOE_KERNELS_BINARY: \/nowhere\/moe_kernels\.node could not be loaded .*\n$/,
    );
    expect([exitCode, stdout]).toEqual([2, '']);
    expect(spawn(['--version'], env)).toEqual({ exitCode: 0, stdout: `${packageVersion()}\n`, stderr: '' });
  });
});
