// What the conformance suite runs on: every device here, in every float dtype.

import { type DeviceName, devices } from '../../src/index.ts';
import type { Float } from './dtypes.ts';

export interface Target {
  readonly device: DeviceName;
  readonly dtype: Float;
}

/** `MOE_KERNELS_TEST_DTYPES` and `MOE_KERNELS_TEST_DEVICES` leave some out. */
const { MOE_KERNELS_TEST_DTYPES: dtypes, MOE_KERNELS_TEST_DEVICES: names } = process.env;
const isChosen = (list: string | undefined, one: string) =>
  list === undefined || list.split(',').includes(one);

const ALL_DTYPES: readonly Float[] = ['float32', 'bfloat16', 'float16'];
export const DTYPES = ALL_DTYPES.filter(dtype => isChosen(dtypes, dtype));
export const DEVICES: readonly DeviceName[] = devices()
  .map(({ name }) => name)
  .filter(name => isChosen(names, name));

/** Each prints as its title in `describe.each(TARGETS)('$device $dtype', …)`. */
export const TARGETS: readonly Target[] = DEVICES.flatMap(device => DTYPES.map(dtype => ({ device, dtype })));
