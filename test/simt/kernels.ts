// The kernels of a binary that the emulator's build made, and which of them ran.

import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';

/** The emulator's `__global__` marks a kernel's name with an ABI tag; a lambda within a kernel is named `_ZZ…` or `_ZNZ…`. */
const KERNEL = /^_ZN(?!K?Z)\w*B6kernel\w*$/;

export interface Kernel {
  readonly name: string;
  readonly ran: boolean;
}

/** Of the grouped products, whose tiles are chosen by sizes that are too large for suites of many cases. */
export const isProduct = ({ name }: Kernel) => /\b(hopper_)?multiply</.test(name);

/** @param log what `MOE_SIMT_LAUNCH_LOG` named: the offset in the binary of every kernel that ran to its end */
export function kernelsOf(binary: string, log: string): Kernel[] {
  if (!existsSync(log)) throw new Error(`${log}: no kernel was launched; run the whole suite`);
  const launched = new Set(readFileSync(log, 'utf8').trim().split('\n'));
  const table = execFileSync('objdump', ['-t', binary], { encoding: 'utf8', maxBuffer: 1 << 30 });
  const symbols = table.split('\n').flatMap(line => {
    const name = line.split(/\s+/).at(-1)!;
    return KERNEL.test(name) ? [{ offset: line.slice(0, 16).replace(/^0+/, ''), name }] : [];
  });
  const input = symbols.map(({ name }) => name).join('\n');
  const names = execFileSync('c++filt', { input, encoding: 'utf8' }).split('\n');
  return symbols.map(({ offset }, i) => ({
    name: names[i]!.replace('[abi:kernel]', ''),
    ran: launched.has(offset),
  }));
}
