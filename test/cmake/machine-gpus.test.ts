// What a plain build compiles CUDA kernels for, by what the driver's nvidia-smi says.

import { execFileSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { REPOSITORY } from '../support/child.ts';

const folder = mkdtempSync(join(tmpdir(), 'moe-kernels-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const SCRIPT = join(folder, 'print.cmake');
writeFileSync(
  SCRIPT,
  `include("${join(REPOSITORY, 'cmake/machine-gpus.cmake')}")\nmoe_machine_gpus(gpus)\nmessage(STATUS "\${gpus}")\n`,
);

/** With an nvidia-smi that says `answer` and exits with `status` found before any other. */
function architectures(answer: string, status = 0): string {
  const smi = join(folder, 'nvidia-smi');
  writeFileSync(smi, `#!/bin/sh\nprintf '${answer}'\nexit ${status}\n`);
  chmodSync(smi, 0o755);
  const env = { ...process.env, PATH: `${folder}${delimiter}${process.env.PATH}` };
  return execFileSync('cmake', ['-P', SCRIPT], { encoding: 'utf8', env }).replace(/^-- ?/, '').trim();
}

test.each([
  ['9.0\\n', '90a-real'],
  ['8.6\\n8.0\\n8.6\\n', '80-real;86-real'],
  ['12.0\\n9.0\\n', '120-real;90a-real'],
  ['7.5\\n', ''],
  ['7.0\\n8.9\\n', '89-real'],
  ['', ''],
])('a driver that answers %j', (answer, expected) => {
  expect(architectures(answer)).toBe(expected);
});

test('a driver that does not answer', () => {
  expect(architectures('NVIDIA-SMI has failed: 9.0\\n', 9)).toBe('');
});
