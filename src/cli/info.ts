// `moe-kernels info`: what was loaded and what it found on this machine.

import { backendInfo, devices } from '../device.ts';
import { packageVersion } from '../package.ts';
import { type ExitCode, printJson, printLine } from './output.ts';

export function info({ json }: { json: boolean }): ExitCode {
  const { binary, instructionSet, instructionSets, threads, cores, cuda } = backendInfo();
  const found = {
    version: packageVersion(),
    binary,
    instructionSet,
    instructionSets,
    threads,
    cores,
    devices: devices(),
    cuda,
  };
  if (json) {
    printJson(found);
    return 0;
  }
  const lines = {
    version: found.version,
    binary,
    'instruction set': `${instructionSet} (available: ${instructionSets.join(', ')})`,
    threads: `${threads} on ${cores} cores`,
    devices: found.devices.map(({ name, description }) => `${name} (${description})`).join(', '),
    cuda,
  };
  const width = Math.max(...Object.keys(lines).map(label => label.length));
  for (const [label, value] of Object.entries(lines)) printLine(`${label.padEnd(width)}  ${value}`);
  return 0;
}
