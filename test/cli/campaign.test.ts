// `moe-kernels bench` over many cases: results kept in a file, a campaign that goes on, what is printed.

import { spawn as spawnProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterAll, expect, test, vi } from 'vitest';
import type { BenchResult } from '../../bench/result.ts';
import type { ComparedResult } from '../../bench/verdict.ts';
import { printResults } from '../../src/cli/bench-output.ts';
import { getThreads, setThreads } from '../../src/index.ts';
import { RESULT } from '../support/bench-result.ts';
import { jsonLines, MAIN, run } from './support/command.ts';
import { temporaryFiles } from './support/safetensors.ts';

const { folder, write } = temporaryFiles();
const threads = getThreads();
afterAll(() => setThreads(threads));

const SMALL = ['bench', '--shape', '4,16,20,6,2', '--threads', '1', '--min-time', '0.001'];
const read = (path: string) => jsonLines<BenchResult>(readFileSync(path, 'utf8'));
const dates = (results: readonly BenchResult[]) => results.map(({ date }) => date);

test('what a file has is shown, and not measured again', async () => {
  const out = join(folder, 'resumed.jsonl');
  const first = await run(...SMALL, '--pass', 'forward', '--out', out, '--json');
  expect(jsonLines(first.stdout)).toEqual(read(out));
  const second = await run(...SMALL, '--pass', 'forward,backward', '--out', out, '--json');
  expect([first.exitCode, second.exitCode]).toEqual([0, 0]);
  expect(jsonLines(second.stdout)).toEqual(read(out));
  expect(read(out).map(({ pass }) => pass)).toEqual(['forward', 'backward']);
  expect(dates(read(out))[0]).toBe(jsonLines(first.stdout)[0]!.date);
});

test.each(['processor', 'version', 'instructionSet'])(
  'a result of another %s counts for nothing',
  async field => {
    const out = join(folder, `${field}.jsonl`);
    await run(...SMALL, '--out', out);
    const other = { ...read(out)[0]!, [field]: 'another' };
    // Nor does it matter that the last line was left without its end.
    write(`${field}.jsonl`, Buffer.from(JSON.stringify(other)));
    const { stdout } = await run(...SMALL, '--out', out, '--json');
    expect(read(out)).toEqual([other, ...jsonLines(stdout)]);
    expect(jsonLines(stdout)).toHaveLength(1);
  },
);

test.each([
  ['--precision', '3'],
  ['--max-time', '0.004'],
  ['--min-time', '0.0009'],
  ['--cache', 'warm'],
  ['--warm'],
])('nor does one measured with another %s', async (option, ...value) => {
  const out = join(folder, `measured${option}.jsonl`);
  await run(...SMALL, '--out', out);
  await run(...SMALL, '--out', out, option, ...value);
  expect(read(out)).toHaveLength(2);
});

test.each([
  ['not JSON', 'nonsense', 'bench or profile, got "nonsense"'],
  ['another object', '{"shape":"a"}', 'bench, got none as dtype'],
])('a file with a line that is %s is left as it is', async (name, line, expected) => {
  const path = write(`${name}.jsonl`, Buffer.from(`${line}\n`));
  const { exitCode, stdout, stderr } = await run(...SMALL, '--out', path);
  const sentence = `moe-kernels: --out: line 1 of ${path}: expected a result of moe-kernels ${expected}\n`;
  expect([exitCode, stdout, stderr]).toEqual([2, '', sentence]);
  expect(readFileSync(path, 'utf8')).toBe(`${line}\n`);
});

const LONG = ['--min-time', '0.5', '--tokens', '1,2'];

test.each([
  ['bench', 'Ctrl-C', 'SIGINT', 130, [...SMALL, ...LONG, '--max-time', '0.5']],
  ['profile', 'Ctrl-C', 'SIGINT', 130, ['profile', ...SMALL.slice(1, 3), '--pass', 'forward', ...LONG]],
  ['bench', 'SIGTERM', 'SIGTERM', 143, [...SMALL, ...LONG, '--max-time', '0.5']],
] as const)('%s: %s keeps what is finished and says how to go on', async (name, _, signal, code, command) => {
  const out = join(folder, `${name}-${signal}.jsonl`);
  const child = spawnProcess(process.execPath, ['--import', 'tsx', MAIN, ...command, '--out', out]);
  let stderr = '';
  child.stderr.on('data', text => {
    stderr += text;
  });
  while (!existsSync(out) || readFileSync(out, 'utf8') === '') await setTimeout(20);
  child.kill(signal);
  const [exitCode] = await once(child, 'close');
  expect(stderr).toBe(
    `moe-kernels: stopped with 1 of 2 results finished, which ${out} holds; the same command goes on with the rest\n`,
  );
  expect([exitCode, read(out).length]).toEqual([code, 1]);
});

test('on a terminal says which case runs and how many are finished, but not among JSON', async () => {
  const { isTTY } = process.stderr;
  process.stderr.isTTY = true;
  try {
    const { stderr } = await run(...SMALL, '--pass', 'forward,both');
    expect(stderr).toContain('0/2, ? left: 4,16,20,6,2 T4 float32 forward cpu 1 thread');
    expect(stderr).toMatch(/1\/2, \d+s left: 4,16,20,6,2 T4 float32 both cpu 1 thread/);
    expect((await run(...SMALL, '--json')).stderr).toBe('');
  } finally {
    process.stderr.isTTY = isTTY;
  }
});

test('CSV has a header, quotes what has commas, and ends lines as RFC 4180 says', async () => {
  const { exitCode, stdout, stderr } = await run(...SMALL, '--pass', 'forward,both', '--csv');
  expect([exitCode, stderr]).toEqual([0, '']);
  const lines = stdout.split('\r\n');
  expect(lines).toHaveLength(4);
  expect(lines[0]).toMatch(
    /^shape,dtype,device,pass,threads,tf32,graph,medianMs,.*,date,baselineMedianMs,baselineRatio,baselineVerdict$/,
  );
  expect(lines[1]).toMatch(/^"4,16,20,6,2",float32,cpu,forward,1,,,[\d.]+,/);
});

test('the widest table fits 80 columns', async () => {
  const out = join(folder, 'wide.jsonl');
  const wide = [...SMALL, '--tokens', '4', '--dtype', 'bfloat16', '--pass', 'backward', '--out', out];
  await run(...wide);
  const slow = {
    imprecise: true,
    medianMs: 12345.6,
    lowMs: 12222.2,
    highMs: 12444.4,
    tokens: 65536,
    tflops: 1.23e-7,
  };
  const shape = '65536,16,20,6,2';
  write('wide.jsonl', Buffer.from(JSON.stringify({ ...read(out)[0]!, ...slow, shape, threads: 128 })));
  const args = [...wide, '--shape', shape, '--tokens', '65536', '--threads', '128', '--baseline', out];
  const { stdout } = await run(...args);
  expect(stdout).toContain('T65536 bfloat16 backward ×128  ~12346 (12222–12444)  1.23e-7');
  expect(stdout.split('\n').filter(line => line.length > 80)).toEqual([]);
});

test('on a GPU a table names the GPU and graphs, in 80 columns as well', () => {
  const result: ComparedResult = {
    ...{ ...RESULT, device: 'cuda:0', deviceName: 'NVIDIA H200', tokens: 65536, dtype: 'bfloat16' },
    ...{ pass: 'backward', graph: true, medianMs: 12345.6, lowMs: 12222.2, highMs: 12444.4, tflops: 1.23e-7 },
    baseline: { medianMs: 1, ratio: 1.234, verdict: 'slower' },
  };
  const write = vi.spyOn(process.stdout, 'write').mockReturnValue(true);
  printResults([result], { csv: false });
  const text = write.mock.calls.join('');
  write.mockRestore();
  expect(text).toContain('swiglu, cuda:0 (NVIDIA H200)\n');
  expect(text).toContain('T65536 bfloat16 backward graph  12346 (12222–12444)  1.23e-7');
  expect(text.split('\n').filter(line => line.length > 80)).toEqual([]);
});

/** A file with what was just measured, as if it had taken `factor` times as long; both without any spread. */
async function earlier(name: string, factor: number, changes: Partial<BenchResult> = {}) {
  const out = join(folder, `${name}.jsonl`);
  await run(...SMALL, '--out', out);
  const result = read(out)[0]!;
  const { rulers, ...rest } = result;
  const taking = (ms: number): BenchResult => {
    const inRulers = (rulers! * ms) / rest.medianMs;
    return {
      ...{ ...rest, medianMs: ms, lowMs: ms, highMs: ms },
      ...{ rulers: inRulers, rulersLow: inRulers, rulersHigh: inRulers },
    };
  };
  const before = { ...taking(factor * result.medianMs), ...changes };
  write(`${name}.jsonl`, Buffer.from(`${JSON.stringify(taking(result.medianMs))}\n`));
  write(`${name}-before.jsonl`, Buffer.from(`${JSON.stringify(before)}\n`));
  return [...SMALL, '--out', out, '--baseline', join(folder, `${name}-before.jsonl`)];
}

test.each([
  ['faster', 100, 0],
  ['slower', 0.01, 1],
  ['same', 1, 0],
])('beside a baseline: %s', async (verdict, factor, exitCode) => {
  const args = await earlier(verdict, factor);
  const json = await run(...args, '--json');
  const [{ medianMs, baseline }] = jsonLines<ComparedResult>(json.stdout) as [ComparedResult];
  expect(baseline).toEqual({ medianMs: factor * medianMs, ratio: expect.closeTo(1 / factor), verdict });
  expect(json.exitCode).toBe(exitCode);
  expect((await run(...args)).stdout).toMatch(
    new RegExp(`floor +baseline *\n.* %  +[\\d.]+ ${verdict} *\n$`),
  );
  expect((await run(...args, '--csv')).stdout).toMatch(new RegExp(`,${verdict}\r\n$`));
});

test('the tolerance is the caller’s', async () => {
  const args = await earlier('tolerant', 0.01);
  expect((await run(...args, '--tolerance', '20000')).exitCode).toBe(0);
});

test('a case that the baseline has not is shown without a verdict', async () => {
  const args = await earlier('another', 0.01, { pass: 'forward' });
  const { exitCode, stdout } = await run(...args, '--json');
  expect(exitCode).toBe(0);
  expect(jsonLines(stdout)[0]).not.toHaveProperty('baseline');
});

test('a baseline of another processor is refused', async () => {
  const args = await earlier('foreign', 1, { processor: 'Abacus 1' });
  const { exitCode, stdout, stderr } = await run(...args);
  expect([exitCode, stdout]).toEqual([2, '']);
  expect(stderr).toMatch(
    /^moe-kernels: --baseline: expected results of the same processor, .+, got those of Abacus 1 in .+\n$/,
  );
});

const YAML_PLAN = `
shape: [ "4,16,20,6,2", "5,3,7,4,4" ]
tokens: [3, 2]
dtype: bfloat16
pass: [forward]
threads: 1
minTime: 0.001
`;
const JSON_PLAN = JSON.stringify({
  ...{ shape: ['4,16,20,6,2', '5,3,7,4,4'], tokens: [3, 2], dtype: ['bfloat16'], pass: 'forward' },
  ...{ threads: [1], minTime: 0.001 },
});

test.each([
  ['YAML', YAML_PLAN],
  ['JSON', JSON_PLAN],
])('a plan in %s, and options that override it', async (form, text) => {
  const plan = write(`plan-${form}`, Buffer.from(text));
  const shown = async (...options: string[]) => {
    const { exitCode, stdout, stderr } = await run('bench', '--plan', plan, '--json', ...options);
    expect([exitCode, stderr]).toEqual([0, '']);
    return jsonLines<BenchResult>(stdout).map(({ shape, dtype, pass }) => `${shape} ${dtype} ${pass}`);
  };
  expect(await shown()).toEqual(
    ['3,16,20,6,2', '2,16,20,6,2', '3,3,7,4,4', '2,3,7,4,4'].map(shape => `${shape} bfloat16 forward`),
  );
  expect(await shown('--shape', '4,16,20,6,2', '--tokens', '1', '--pass', 'both')).toEqual([
    '1,16,20,6,2 bfloat16 both',
  ]);
});

const KEYS =
  'shape, activation, tokens, router, skew, dtype, pass, stage, device, graph, threads, cache, minTime, maxTime, precision, vs, rounds';
test.each([
  ['shapes: mixtral-mini', `: expected only the keys ${KEYS}, got "shapes"`],
  ['tokens: "16"', ': tokens: expected a number or a list of them, got "16"'],
  ['tokens: [1, two]', ': tokens: expected a number or a list of them, got an array of length 2'],
  ['dtype: []', ': dtype: expected a string or a list of them, got []'],
  ['minTime: [1]', ': minTime: expected a number, got [1]'],
  ['minTime: 1\nmaxTime: 0.5', ': maxTime: expected no less than the least time, 1 s, got 0.5 s'],
  ['minTime: 0', ': minTime: expected a positive number, got "0"'],
  ['tokens: [1, 0]', ': tokens: expected an integer from 1 to 2147483647, got 0'],
  ['vs: [jax]', ': vs: expected one of onnxruntime-node, loop, torch, tfjs-wasm, jax-js, ggml, got "jax"'],
  ['device: tpu', ': device: expected cpu or cuda:N, got "tpu"'],
  ['graph: sideways', ': graph: expected one of off, on, both, got "sideways"'],
  ['graph: on', ': graph: expected off on cpu, which launches no graphs, got "on"'],
  ['- mixtral-mini', ': expected an object, got an array of length 1'],
  ['', ': expected an object, got null'],
  ['pass: both\npass: forward', ': expected JSON or YAML, got Map keys must be unique (at character 11)'],
])('a plan that says %j is refused by the file’s name', async (text, sentence) => {
  const plan = write('bad-plan.yaml', Buffer.from(text));
  const stderr = `moe-kernels: ${plan}${sentence}\n`;
  expect(await run('bench', '--plan', plan)).toEqual({ exitCode: 2, stdout: '', stderr });
});

test('a plan that is not there', async () => {
  const { exitCode, stderr } = await run('bench', '--plan', '/nowhere/plan.yaml');
  const sentence = '--plan: expected a readable file, got /nowhere/plan.yaml (ENOENT)';
  expect([exitCode, stderr]).toEqual([2, `moe-kernels: ${sentence}\n`]);
});
