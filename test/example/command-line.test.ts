// The example as it is run: what it prints, and how it ends.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { ROUTER_NAMES } from '../../examples/train-bytes/routers.ts';
import { runNode } from '../support/child.ts';

const folder = mkdtempSync(join(tmpdir(), 'train-bytes-'));
afterAll(() => rmSync(folder, { recursive: true }));
const text = join(folder, 'text.txt');
writeFileSync(
  text,
  'The router chooses experts; the experts answer; the answers are combined.\n'.repeat(100),
);

const run = (...args: string[]) => runNode(['--import', 'tsx', 'examples/train-bytes.ts', ...args]);

const SIZES = ['--hidden', '32', '--intermediate', '16', '--experts', '4', '--tokens', '64'];

it('trains, reports the loss beside the entropy and every expert’s share, and exits with 0', async () => {
  const { code, stdout, stderr } = await run(text, '--steps', '20', ...SIZES);
  expect(code).toBe(0);
  expect(stderr).toContain('step 20');
  expect(stdout).toMatch(/^after 20 steps/m);
  const [loss, entropy] = [/validation loss +([\d.]+) bits/, /unigram entropy +([\d.]+) bits/].map(line =>
    Number(line.exec(stdout)?.[1]),
  );
  expect(loss).toBeGreaterThan(0);
  expect(loss).toBeLessThan(8);
  expect(entropy).toBeGreaterThan(3);
  const shares = [...stdout.matchAll(/expert \d +([\d.]+) %/g)].map(([, share]) => Number(share));
  expect(shares).toHaveLength(4);
  expect(Math.abs(shares.reduce((a, b) => a + b, 0) - 100)).toBeLessThan(0.5);
  const violation = Number(/max violation ([\d.]+)/.exec(stdout)?.[1]);
  expect(Math.abs(violation - (Math.max(...shares) / 25 - 1))).toBeLessThan(0.01);
  expect(stdout).toContain('experts used, 1.00 per byte');
});

it('--router says how: experts that choose share the bytes evenly', async () => {
  const { code, stdout } = await run(text, '--router', 'expert-choice', '--steps', '2', ...SIZES);
  expect(code).toBe(0);
  expect(stdout).toContain('router expert-choice');
  expect(stdout).toContain('max violation 0.00');
  expect([...stdout.matchAll(/expert \d +25.0 %/g)]).toHaveLength(4);
});

it('--help lists the options and the routers', async () => {
  const { code, stdout } = await run('--help');
  expect(code).toBe(0);
  const options = ['--steps', '--seconds', '--experts', '--top-k', '--seed', '--router'];
  for (const name of [...options, ...ROUTER_NAMES]) expect(stdout).toContain(`\n  ${name} `);
});

describe('a mistake in the command line is one sentence and exit code 2', () => {
  it.each([
    ['no file', [], 'FILE: expected one text file, got 0'],
    ['a file that is not there', [join(folder, 'absent')], 'FILE: ENOENT'],
    ['a number out of range', [text, '--steps=-1'], '--steps: expected a positive integer, got -1'],
    ['not a number', [text, '--experts', 'many'], '--experts: expected a positive integer, got many'],
    ['an option that does not exist', [text, '--expert', '4'], "Unknown option '--expert'"],
    ['a text shorter than the context', [text, '--context', '5000'], 'FILE: expected a longer text'],
    [
      'a router that does not exist',
      [text, '--router', 'best'],
      '--router: expected one of top-k, aux-loss, ',
    ],
    [
      'sequences that do not divide the batch',
      [text, '--sequence', '7'],
      '--sequence: expected a divisor of 512, the tokens, got 7',
    ],
    [
      'more experts per token than experts',
      [text, '--experts', '2', '--top-k', '3'],
      '--router aux-loss: config.topK: expected an integer from 1 to 2, got 3',
    ],
    [
      'a K for experts that choose',
      [text, '--router', 'expert-choice', '--top-k', '3'],
      '--router expert-choice: config.router.topK: expected nothing with expertChoice, got 3',
    ],
  ])('%s', async (_, args, sentence) => {
    const { code, stdout, stderr } = await run(...args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain(sentence);
    expect(stderr.trim().split('\n')).toHaveLength(1);
  });
});
