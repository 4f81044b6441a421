// The switch of test builds that slows the CPU's products down, on which `npm run test:verdicts` relies.

import { afterAll, expect, test } from 'vitest';
import { timeOnce } from '../../bench/measure.ts';
import { measuredPass } from '../../bench/measured-case.ts';
import { parseShape } from '../../bench/shapes.ts';
import { estimateDrifting } from '../../bench/statistics.ts';
import { judge } from '../../bench/verdict.ts';
import { Workload } from '../../bench/workload.ts';
import { setThreads } from '../../src/index.ts';

const SWITCH = 'MOE_KERNELS_TEST_SLOWDOWN';
afterAll(() => {
  delete process.env[SWITCH];
});

/** Turn by turn, so that whatever the machine does meanwhile happens to both: the plain run is the ruler of the slowed one. */
test('a slower kernel is slower, and the verdict sees it', () => {
  setThreads(1);
  using workload = new Workload(parseShape('shape', '64,256,512,4,2'), 'float32', 'cpu');
  const pass = measuredPass(workload, 'forward');
  const timeSlowed = (percent: string) => {
    process.env[SWITCH] = percent;
    return timeOnce(pass);
  };
  timeSlowed('0');
  const slowed = Array.from({ length: 12 }, () => timeSlowed('2000') / timeSlowed('0'));
  const [before, now] = [{ median: 1, low: 1, high: 1 }, estimateDrifting(slowed)];
  expect(now.median).toBeGreaterThan(3);
  expect(judge(now, before, 0.05)).toBe('slower');
});
