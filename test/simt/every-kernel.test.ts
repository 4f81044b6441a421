// No kernel is forgotten: every instantiation in the binary ran to its end in one of the suites on the emulated GPU, or is
// listed here with the reason why it runs on devices alone.

import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

/** The reason by a part of the kernel's name that no other kernel has. */
const DEVICE_ONLY: { readonly [name: string]: string } = {};

interface Kernel {
  readonly offset: string;
  readonly name: string;
}

/** The emulator's `__global__` marks a kernel's name with an ABI tag; a lambda within a kernel is named `_ZZ…` or `_ZNZ…`. */
const KERNEL = /^_ZN(?!K?Z)\w*B6kernel\w*$/;

function kernelsOf(binary: string): Kernel[] {
  const table = execFileSync('objdump', ['-t', binary], { encoding: 'utf8', maxBuffer: 1 << 30 });
  const kernels = table.split('\n').flatMap(line => {
    const name = line.split(/\s+/).at(-1)!;
    return KERNEL.test(name) ? [{ offset: line.slice(0, 16).replace(/^0+/, ''), name }] : [];
  });
  const names = execFileSync('c++filt', {
    input: kernels.map(({ name }) => name).join('\n'),
    encoding: 'utf8',
  });
  return names
    .split('\n')
    .map((name, index) => ({ ...kernels[index]!, name: name.replace('[abi:kernel]', '') }));
}

function launchedOffsets(log: string): Set<string> {
  if (!existsSync(log)) throw new Error('no kernel was launched: run the whole suite, npx vitest run');
  return new Set(readFileSync(log, 'utf8').trim().split('\n'));
}

test('every kernel ran on the emulated GPU, or says why not', () => {
  const kernels = kernelsOf(process.env.MOE_KERNELS_BINARY!);
  const launched = launchedOffsets(process.env.MOE_SIMT_LAUNCH_LOG!);
  expect(kernels.length).toBeGreaterThan(50);
  const isExcused = ({ name }: Kernel) => Object.keys(DEVICE_ONLY).some(part => name.includes(part));
  const [ran, forgotten] = [true, false].map(wanted =>
    kernels.filter(kernel => launched.has(kernel.offset) === wanted),
  ) as [Kernel[], Kernel[]];
  expect(
    forgotten.filter(kernel => !isExcused(kernel)).map(({ name }) => name),
    'never launched',
  ).toEqual([]);
  expect(
    ran.filter(isExcused).map(({ name }) => name),
    'listed as device-only, but launched',
  ).toEqual([]);
  expect(launched.size, 'launches of what is no kernel').toBe(ran.length);
});
