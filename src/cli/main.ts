#!/usr/bin/env node
// The command `moe-kernels`.

import { runCommandLine } from './program.ts';

// A reader that closes the pipe early, as `head` does, has seen enough.
process.stdout.on('error', error => {
  if ((error as NodeJS.ErrnoException).code !== 'EPIPE') throw error;
  process.exit(process.exitCode);
});

process.exitCode = await runCommandLine(process.argv.slice(2));
