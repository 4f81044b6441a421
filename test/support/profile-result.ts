// A result of `profile`, for what reads and shows them.

import type { ProfileResult } from '../../bench/profile.ts';
import { RESULT } from './bench-result.ts';

const { flops, bytes, tflops, floorMs, expertLoad, ...common } = RESULT;

/** Of 8 ms: half of it in one stage, at half its floor, and a millisecond between stages. */
export const PROFILE: ProfileResult = {
  ...{ ...common, device: 'cpu', flopsPerSecond: 4e12, bytesPerSecond: 1e12 },
  stages: [
    { op: 'route', stage: 'logits', medianMs: 1, flops: 1e9, bytes: 1e6, inFloat32: true, floorMs: 0.25 },
    { op: 'dispatch', stage: 'count', medianMs: 2, flops: 0, bytes: 4e9, floorMs: 4 },
    { op: 'expertsForward', stage: 'up', medianMs: 4, flops: 8e9, bytes: 1e6, floorMs: 2 },
  ],
  ...{ betweenMs: 1, totalMs: 8 },
};
