// A Node process of its own, and what became of it.

import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
const LIMIT_MS = 20_000;

/** Runs a Node program until it exits; after twenty seconds it is killed, and `signal` says so. */
export function runNode(
  args: readonly string[],
  options: { cwd?: string; env?: Record<string, string | undefined> } = {},
): Promise<Exit> {
  const env = { ...process.env, ...options.env };
  const child = spawn(process.execPath, args, { cwd: options.cwd ?? REPOSITORY, env, timeout: LIMIT_MS });
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (text: string) => {
      output[name] += text;
    });
  }
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, signal, ...output }));
  });
}
