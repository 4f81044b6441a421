// The example as it is run: what it prints, and how it ends.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { runNode } from '../support/child.ts';

const folder = mkdtempSync(join(tmpdir(), 'train-bytes-'));
afterAll(() => rmSync(folder, { recursive: true }));
const text = join(folder, 'text.txt');
writeFileSync(
  text,
  'The router chooses experts; the experts answer; the answers are combined.\n'.repeat(100),
);

const run = (...args: string[]) => runNode(['--import', 'tsx', 'examples/train-bytes.ts', ...args]);

it('trains, reports the loss beside the entropy and every expert’s share, and exits with 0', async () => {
  const sizes = ['--hidden', '32', '--intermediate', '16', '--experts', '4', '--tokens', '64'];
  const { code, stdout, stderr } = await run(text, '--steps', '20', ...sizes);
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
});

it('--help lists the options', async () => {
  const { code, stdout } = await run('--help');
  expect(code).toBe(0);
  for (const option of ['--steps', '--seconds', '--experts', '--seed']) expect(stdout).toContain(option);
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
      'more experts per token than experts',
      [text, '--experts', '2', '--top-k', '3'],
      '--top-k: expected at most 2',
    ],
  ])('%s', async (_, args, sentence) => {
    const { code, stdout, stderr } = await run(...args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain(sentence);
    expect(stderr.trim().split('\n')).toHaveLength(1);
  });
});
