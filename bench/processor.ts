import { cpus } from 'node:os';

/** This machine's processor as its maker calls it. */
export function processorName(): string {
  return cpus()[0]?.model.trim() ?? process.arch;
}
