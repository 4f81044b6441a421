// What the conformance suite runs on: every device here, in every float dtype.

import { type DeviceName, devices } from '../../src/index.ts';
import type { Float } from './dtypes.ts';

export interface Target {
  readonly device: DeviceName;
  readonly dtype: Float;
}

export const DTYPES: readonly Float[] = ['float32', 'bfloat16', 'float16'];

/** Each prints as its title in `describe.each(TARGETS)('$device $dtype', …)`. */
export const TARGETS: readonly Target[] = devices().flatMap(({ name }) =>
  DTYPES.map(dtype => ({ device: name, dtype })),
);
export const DEVICES: readonly DeviceName[] = devices().map(({ name }) => name);
