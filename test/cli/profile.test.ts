// `moe-kernels profile`: its table, its JSON, its trace, and what it refuses.

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test, vi } from 'vitest';
import type { ProfileResult } from '../../bench/profile.ts';
import type { TraceEvent } from '../../bench/trace.ts';
import { Workload } from '../../bench/workload.ts';
import { getThreads, setThreads } from '../../src/index.ts';
import { RESULT } from '../support/bench-result.ts';
import { jsonLines, run } from './support/command.ts';
import { temporaryFiles } from './support/safetensors.ts';
import { withWrongForward } from './support/wrong-layer.ts';

const SMALL = ['profile', '--shape', '24,16,20,6,2', '--min-time', '0.001'];
const { write, folder } = temporaryFiles();

describe('the profile', () => {
  test('a JSON line for each dtype and pass', async () => {
    const threads = getThreads();
    const { exitCode, stdout, stderr } = await run(
      ...[...SMALL, '--tokens', '9', '--dtype', 'float32,bfloat16', '--pass', 'forward,both'],
      ...['--threads', '1', '--json'],
    );
    setThreads(threads);
    expect([exitCode, stderr]).toEqual([0, '']);
    const lines = jsonLines<ProfileResult>(stdout);
    expect(lines.map(({ dtype, pass }) => `${dtype} ${pass}`)).toEqual([
      'float32 forward',
      'float32 both',
      'bfloat16 forward',
      'bfloat16 both',
    ]);
    for (const line of lines) {
      expect(line).toMatchObject({ shape: '9,16,20,6,2', tokens: 9, threads: 1, device: 'cpu' });
      const ops = new Set(line.stages.map(({ op }) => op));
      const forward = ['route', 'dispatch', 'expertsForward'];
      const backward = ['expertsBackward', 'routeBackward'];
      expect([...ops]).toEqual(line.pass === 'both' ? [...forward, ...backward] : forward);
    }
  });

  test('a table whose times add up to the total, in 80 columns', async () => {
    const { exitCode, stdout } = await run(...SMALL, '--activation', 'relu2', '--pass', 'forward,backward');
    expect(exitCode).toBe(0);
    const lines = stdout.trimEnd().split('\n');
    expect(Math.max(...lines.map(line => line.length))).toBeLessThanOrEqual(80);
    expect(lines[0]).toBe('24,16,20,6,2: T 24, H 16, I 20, E 6, K 2, relu2');
    expect(lines[1]).toMatch(/^float32, forward, \d+ threads \(.+\), median of \d+ runs$/);
    const tables = stdout.split('┌').slice(1);
    const rows = tables.map(table =>
      table
        .split('\n')
        .filter(line => line.startsWith('│'))
        .map(line => line.split('│').map(cell => cell.trim())),
    );
    expect(rows.map(([head]) => head!.slice(1, -1))).toEqual(
      tables.map(() => ['stage', 'ms', 'share', 'GFLOP', 'MB', 'of the floor']),
    );
    expect(rows[0]!.slice(1).map(([, stage]) => stage)).toEqual([
      ...['route logits', 'route choice', 'dispatch count', 'dispatch place'],
      ...['expertsForward up', 'expertsForward down', 'expertsForward combine', 'between stages', 'total'],
    ]);
    for (const table of rows) {
      const times = table.slice(1).map(([, , ms]) => Number(ms));
      const total = times.pop()!;
      expect(Math.abs(times.reduce((sum, ms) => sum + ms, 0) - total)).toBeLessThan(0.001 * times.length);
      expect(table.at(-1)!.slice(3, 4)).toEqual(['100.0 %']);
    }
  });

  test('of another router and load', async () => {
    const router = ['--router', 'softmax-selected', '--skew', 'one-hot', '--pass', 'forward'];
    const { stdout } = await run(...SMALL, ...router, '--json');
    const [line] = jsonLines<ProfileResult>(stdout);
    expect([line!.router, line!.skew]).toEqual(['softmax-selected', 'one-hot']);
    const up = line!.stages.find(({ op, stage }) => op === 'expertsForward' && stage === 'up');
    // Two of the six experts are read.
    expect(up!.bytes).toBe(4 * (2 * 2 * 16 * 20 + 24 * 16 + 48 * 20));
    const table = await run(...SMALL, ...router);
    expect(table.stdout).toMatch(
      /^24,16,20,6,2: T 24, H 16, I 20, E 6, K 2, swiglu, softmax-selected, one-hot\n/,
    );
  });

  test('a trace of every pass', async () => {
    const file = join(folder, 'layer.trace.json');
    expect((await run(...SMALL, '--pass', 'forward,backward', '--trace', file)).exitCode).toBe(0);
    const { traceEvents } = JSON.parse(readFileSync(file, 'utf8')) as { traceEvents: TraceEvent[] };
    const runs = traceEvents.filter(({ cat }) => cat === 'run');
    expect(runs[0]!.name).toMatch(/^24,16,20,6,2 T24 float32 forward cpu .*, run 1$/);
    expect(runs.some(({ name }) => /float32 backward .*, run 6$/.test(name))).toBe(true);
    for (const event of traceEvents) {
      expect(event).toMatchObject({ ph: 'X', pid: 1, tid: 1, ts: expect.any(Number) });
      expect(event.dur).toBeGreaterThanOrEqual(0);
      const end = event.ts + event.dur;
      expect(runs.filter(({ ts, dur }) => event.ts >= ts && end <= ts + dur + 0.01)).toHaveLength(1);
    }
    for (let i = 1; i < runs.length; i++)
      expect(runs[i]!.ts).toBeGreaterThanOrEqual(runs[i - 1]!.ts + runs[i - 1]!.dur);
  });

  test('several layers, kept in a file: what it has is shown, and not measured again', async () => {
    const threads = getThreads();
    const args = [...SMALL.with(2, '9,16,20,6,2'), '--pass', 'forward', '--threads', '1', '--json', '--out'];
    const file = join(folder, 'kept.jsonl');
    const first = await run(...args, file);
    const [kept] = jsonLines<ProfileResult>(readFileSync(file, 'utf8'));
    expect(jsonLines(first.stdout)).toEqual([kept]);
    // A result of bench is another thing, even of the same case.
    const { stages, betweenMs, totalMs, ...timed } = kept!;
    const benched = { ...RESULT, ...timed, tokens: 3, shape: '3,16,20,6,2' };
    write('kept.jsonl', Buffer.from(`${JSON.stringify(benched)}\n${JSON.stringify(kept)}`));
    const second = await run(...args, file, '--tokens', '9,3');
    setThreads(threads);
    expect([second.exitCode, second.stderr]).toEqual([0, '']);
    const shown = jsonLines<ProfileResult>(second.stdout);
    expect(shown.map(({ tokens, date }) => [tokens, date === kept!.date])).toEqual([
      [9, true],
      [3, false],
    ]);
    expect(jsonLines(readFileSync(file, 'utf8'))).toEqual([benched, ...shown]);
  });

  test('a wrong result is not timed: exit code 1, and a file for the trace stays as it was', async () => {
    const file = write('earlier.json', Buffer.from('earlier'));
    const { exitCode, stdout, stderr } = await withWrongForward(() =>
      run(...SMALL, ...['--tokens', '24,9', '--pass', 'forward', '--trace', file, '--json']),
    );
    expect([exitCode, stdout]).toEqual([1, '']);
    expect(jsonLines(stderr)).toEqual(
      [24, 9].map(() => ({
        error: { code: 'ERR_WRONG_RESULT', message: expect.stringContaining('y 1.0e+0 > 1.0e-5') },
      })),
    );
    expect(readFileSync(file, 'utf8')).toBe('earlier');
  });
});

describe('wrong usage is one sentence and exit code 2', () => {
  test.each([
    ['--shape tiny', /^--shape: expected a name .* or five integers T,H,I,E,K, got "tiny"$/],
    ['--tokens 0', /^--tokens: expected an integer from 1 to 2147483647, got 0$/],
    ['--tokens some', /^--tokens: expected an integer from 1 to 2147483647, got NaN$/],
    ['--pass sideways', /^--pass: expected one of forward, backward, both, got "sideways"$/],
    ['--dtype float64', /^--dtype: expected one of .*, got "float64"$/],
    ['--threads 0', /^--threads: expected an integer from 1 to 1024, got 0$/],
    ['--min-time 0', /^--min-time: expected a positive number, got "0"$/],
    ['--device tpu', /^--device: expected cpu or cuda:N, got "tpu"$/],
    [
      '--trace /nowhere/trace.json',
      /^--trace: expected a writable file, got \/nowhere\/trace.json \(ENOENT\)$/,
    ],
    ['--out /nowhere/a.jsonl', /^--out: expected a writable file, got \/nowhere\/a.jsonl \(ENOENT\)$/],
    ['--trace', /^option '--trace <file>' argument missing$/],
  ])('%s', async (line, sentence) => {
    const make = vi.spyOn(Workload.prototype, 'forward');
    const { exitCode, stdout, stderr } = await run('profile', ...line.split(' '));
    expect(make).not.toHaveBeenCalled();
    make.mockRestore();
    expect([exitCode, stdout]).toEqual([2, '']);
    expect(stderr.trimEnd().replace('moe-kernels: ', '')).toMatch(sentence);
    expect(existsSync('/nowhere')).toBe(false);
  });

  test('codes for programs', async () => {
    const codeOf = async (...args: string[]) => {
      const { stderr } = await run('profile', ...args, '--json');
      return jsonLines<{ error: { code: string } }>(stderr)[0]!.error.code;
    };
    expect(await codeOf('--device', 'cuda:0')).toBe('ERR_UNSUPPORTED');
    expect(await codeOf('--trace', '/nowhere/trace.json')).toBe('ERR_FILE');
  });
});
