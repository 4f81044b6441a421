// Whole processes: they end by themselves, quietly, whatever is pending, and say what is wrong when the addon cannot be loaded.

import { writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { backendInfo } from '../../src/index.ts';
import { runChild } from './support/run-child.ts';

describe('a process ends by itself and in silence', () => {
  it.each([
    ['nothing pending', '2\n', 0],
    ['ops pending', 'enqueued\n', 0],
    ['a read pending', 'read 4\n', 0],
    ['process.exit with ops pending', 'enqueued\n', 0],
    ['process.exit with reads pending', 'reading\n', 0],
    ['an error that nobody waited for', 'enqueued\n', 0],
    ['an uncaught exception with ops pending', 'uncaught\n', 3],
  ])('with %s', async (way, stdout, code) => {
    expect(await runChild('exit', [way])).toEqual({ code, signal: null, stdout, stderr: '' });
  });
});

describe('MOE_KERNELS_BINARY', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'moe-kernels-'));
  });
  afterAll(() => rm(folder, { recursive: true }));

  async function load(binary: string): Promise<unknown> {
    const { code, stdout, stderr } = await runChild('load', [], { MOE_KERNELS_BINARY: binary });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    return stdout === 'loaded\n' ? 'loaded' : JSON.parse(stdout);
  }

  it('chooses the addon', async () => {
    expect(await load(backendInfo().binary)).toBe('loaded');
  });

  it('naming no file is ERR_BINARY', async () => {
    const path = join(folder, 'absent.node');
    const message = expect.stringMatching(/^MOE_KERNELS_BINARY: .*absent\.node could not be loaded \(.+\)$/);
    expect(await load(path)).toEqual({ name: 'MoeError', code: 'ERR_BINARY', message });
  });

  it('naming a file that is no addon is ERR_BINARY', async () => {
    const path = join(folder, 'text.node');
    writeFileSync(path, 'not an addon');
    const message = expect.stringMatching(/^MOE_KERNELS_BINARY: .*text\.node could not be loaded \(.+\)$/);
    expect(await load(path)).toEqual({ name: 'MoeError', code: 'ERR_BINARY', message });
  });
});
