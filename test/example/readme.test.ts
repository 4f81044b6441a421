// The README's code is the quick start, and the quick start runs.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { REPOSITORY, runNode } from '../support/child.ts';

const read = (path: string) => readFileSync(join(REPOSITORY, path), 'utf8');

it('shows examples/quick-start.ts', () => {
  const [, shown] = /```ts\n([\s\S]*?)```/.exec(read('README.md'))!;
  const [, code] = /^\/\/.*\n([\s\S]*)$/.exec(read('examples/quick-start.ts'))!;
  const plain = (text: string) => text.replace(/\s+/g, '').replace(/,(?=[)\]])/g, '');
  expect(plain(shown!)).toBe(plain(code!).replace('../src/index.ts', 'moe-kernels'));
});

it('runs', async () => {
  const { code, stdout, stderr } = await runNode(['--import', 'tsx', 'examples/quick-start.ts']);
  expect(stderr).toBe('');
  expect(code).toBe(0);
  expect(stdout).toMatch(/Tensor\(float32 \[64, 256\] on cpu\) Float32Array\(3\)/);
  expect(stdout).toMatch(/\[ 'router\.weight', 'experts\.gate_up', 'experts\.down' \]/);
});
