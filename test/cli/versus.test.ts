// `moe-kernels bench --vs`: what is printed and kept of peers, and what a campaign does that goes on with others.

import { chmodSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, test, vi } from 'vitest';
import type { BenchResult } from '../../bench/result.ts';
import { printResults } from '../../src/cli/bench-output.ts';
import { getThreads, setThreads } from '../../src/index.ts';
import { PEER_RESULT, RESULT } from '../support/bench-result.ts';
import { jsonLines, run } from './support/command.ts';
import { temporaryFiles } from './support/safetensors.ts';

const { folder, write } = temporaryFiles();
const threads = getThreads();
afterAll(() => setThreads(threads));

const SMALL = [
  ...['bench', '--shape', '4,16,20,6,2', '--threads', '1', '--min-time', '0.001', '--rounds', '6'],
];
const read = (path: string) => jsonLines<BenchResult>(readFileSync(path, 'utf8'));
const peersOf = (results: readonly BenchResult[]) => results.map(({ vs }) => vs?.map(({ peer }) => peer));

/** An interpreter that has torch as far as anybody can tell before it is asked to run. */
function brokenPython(): string {
  const path = write('python', Buffer.from('#!/bin/sh\n[ "$1" = -c ] && exit\necho no memory >&2\nexit 1\n'));
  chmodSync(path, 0o755);
  return path;
}

test('a file that has a case without the peer gets it once with it, forward', async () => {
  const out = join(folder, 'beside.jsonl');
  const args = [...SMALL, '--out', out, '--json'];
  expect((await run(...args, '--pass', 'forward')).exitCode).toBe(0);
  const first = await run(...args, '--vs', 'loop');
  expect([first.exitCode, first.stderr]).toEqual([0, '']);
  expect(jsonLines(first.stdout)).toEqual(read(out).slice(1));
  expect(peersOf(read(out))).toEqual([undefined, ['loop']]);
  expect((await run(...args, '--vs', 'loop')).stdout).toBe(first.stdout);
  expect(read(out)).toHaveLength(2);
});

test('what a peer lacks is said once, as a note among JSON', async () => {
  const args = [...SMALL, '--tokens', '1,2', '--pass', 'both', '--vs', 'loop'];
  const note = 'loop has no backward pass: it is left out there';
  const json = await run(...args, '--json');
  expect([json.exitCode, jsonLines(json.stderr)]).toEqual([0, [{ note }]]);
  expect(peersOf(jsonLines(json.stdout))).toEqual([undefined, undefined]);
  expect((await run(...args)).stderr).toBe(`moe-kernels: ${note}\n`);
});

test('a peer that fails is named, ours is measured without it, and the exit code is 1', async () => {
  const args = [...SMALL, '--vs', 'torch', '--python', brokenPython(), '--json'];
  const { exitCode, stdout, stderr } = await run(...args);
  const message = 'torch is not timed beside 4,16,20,6,2 T4 float32 forward cpu 1 thread warm: no memory';
  expect([exitCode, jsonLines(stderr)]).toEqual([1, [{ error: { code: 'ERR_PEER', message } }]]);
  expect(peersOf(jsonLines(stdout))).toEqual([undefined]);
});

test('a plan says what to measure beside', async () => {
  const plan = write('plan.yaml', Buffer.from('shape: "4,16,20,6,2"\nminTime: 0.2\nvs: [loop]\nrounds: 7\n'));
  const { stdout } = await run('bench', '--plan', plan, '--threads', '1', '--json');
  const [{ pass, vs }] = jsonLines<BenchResult>(stdout) as [BenchResult];
  expect([pass, vs!.map(({ peer }) => peer)]).toEqual(['forward', ['loop']]);
  expect(vs![0]!.runs).toBeGreaterThanOrEqual(7);
});

function printed(results: readonly BenchResult[], csv: boolean): string {
  const spy = vi.spyOn(process.stdout, 'write').mockImplementation(() => true);
  try {
    printResults(results, { csv });
    return spy.mock.calls.map(([text]) => text).join('');
  } finally {
    spy.mockRestore();
  }
}

const WIDE: BenchResult = {
  ...{ ...RESULT, dtype: 'bfloat16', pass: 'backward', tokens: 65536, threads: 128 },
  vs: [{ ...PEER_RESULT, medianMs: 12345.6, p10Ms: 1000.4, p90Ms: 20000.2, ratio: 12.34 }],
};

test('a table for each peer and the dtype it ran in, which fits 80 columns', () => {
  const text = printed([{ ...RESULT, vs: [PEER_RESULT] }, WIDE, { ...RESULT, tokens: 32 }], false);
  const [, beside] = text.split('\n\nbeside ');
  expect(beside!.split('\n').map(line => line.trimEnd())).toEqual([
    'onnxruntime-node 1.30.0, in float32, ×2',
    'case                           its median ms (p10–p90)  times ours (95 %)',
    'T16 float32 forward ×2             5.000 (4.500–6.000)   2.50 (2.25–3.00)',
    'T65536 bfloat16 backward ×128       12346 (1000–20000)   12.3 (2.25–3.00)',
    '',
  ]);
  expect(text.split('\n').filter(line => line.length > 80)).toEqual([]);
});

test('CSV has the columns of each peer after its own', () => {
  const [head, row, without] = printed([{ ...RESULT, vs: [PEER_RESULT] }, RESULT], true).split('\r\n');
  const fields = ['version', 'dtype', 'threads', 'medianMs', 'p10Ms', 'p90Ms', 'runs'];
  const names = [...fields, 'difference', 'ratio', 'ratioLow', 'ratioHigh'].map(
    field => `onnxruntime-node.${field}`,
  );
  expect(head!.split(',baselineVerdict,')[1]).toBe(names.join());
  expect(row).toMatch(/,,,1\.30\.0,float32,2,5,4\.5,6,40,1e-7,2\.5,2\.25,3$/);
  expect(without).toMatch(/Z,,,,,,,,,,,,,,$/);
});

test.each([
  ['no list', 'loop', '"loop" as vs'],
  ['a peer without a ratio', [{ ...PEER_RESULT, ratio: undefined }], 'an array of length 1 as vs'],
])('a file with %s is refused', async (name, vs, got) => {
  const path = write(`${name}.jsonl`, Buffer.from(JSON.stringify({ ...RESULT, vs })));
  const { exitCode, stderr } = await run(...SMALL, '--out', path);
  expect(exitCode).toBe(2);
  expect(stderr).toContain(`expected a result of moe-kernels bench, got ${got}`);
});
