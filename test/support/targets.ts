// What the conformance suite runs on: every device here, in every float dtype.

import { type DeviceName, devices } from '../../src/index.ts';
import type { Float } from './dtypes.ts';

export interface Target {
  readonly device: DeviceName;
  readonly dtype: Float;
}

export const DTYPES: readonly Float[] = ['float32', 'bfloat16', 'float16'];

/** `MOE_KERNELS_TEST_DEVICES` leaves some out. */
const chosen = process.env.MOE_KERNELS_TEST_DEVICES?.split(',');
export const DEVICES: readonly DeviceName[] = devices()
  .map(({ name }) => name)
  .filter(name => chosen === undefined || chosen.includes(name));

/** Each prints as its title in `describe.each(TARGETS)('$device $dtype', …)`. */
export const TARGETS: readonly Target[] = DEVICES.flatMap(device => DTYPES.map(dtype => ({ device, dtype })));
