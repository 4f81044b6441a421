// The TypeScript programs of `test/lifetime/children/`, each in a process of its own.

import { fileURLToPath } from 'node:url';
import { type Exit, runNode } from '../../support/child.ts';

export function runChild(
  name: string,
  args: readonly string[] = [],
  env: Record<string, string> = {},
): Promise<Exit> {
  const script = fileURLToPath(new URL(`../children/${name}.ts`, import.meta.url));
  return runNode(['--expose-gc', '--import', 'tsx', script, ...args], { env });
}
