// Runs the command line: in this process for most tests, as a real process for a few.

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { vi } from 'vitest';
import { runCommandLine } from '../../../src/cli/program.ts';

export interface Finished {
  exitCode: number | null;
  stdout: string;
  stderr: string;
}

export async function run(...args: string[]): Promise<Finished> {
  const written = { stdout: '', stderr: '' };
  const capture = (name: 'stdout' | 'stderr') =>
    vi.spyOn(process[name], 'write').mockImplementation(text => {
      written[name] += text;
      return true;
    });
  const spies = [capture('stdout'), capture('stderr')];
  try {
    const exitCode = await runCommandLine(args);
    return { exitCode, ...written };
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
}

export const MAIN = fileURLToPath(new URL('../../../src/cli/main.ts', import.meta.url));

export function spawn(args: readonly string[], env: Record<string, string> = {}): Finished {
  const options = { encoding: 'utf8', env: { ...process.env, ...env } } as const;
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', MAIN, ...args], options);
  return { exitCode: status, stdout, stderr };
}

export function jsonLines<T = Record<string, unknown>>(text: string): T[] {
  return text
    .trimEnd()
    .split('\n')
    .map(line => JSON.parse(line) as T);
}
