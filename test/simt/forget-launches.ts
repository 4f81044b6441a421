// Before a test run: what the emulator noted of kernels in an earlier run is forgotten.

import { rmSync } from 'node:fs';
import type { TestProject } from 'vitest/node';

export function setup({ config }: TestProject): void {
  rmSync(config.env.MOE_SIMT_LAUNCH_LOG!, { force: true });
}
