// Devices as found at load, their memory, and what becomes of a process when one runs out of it or fails. What no machine does on
// demand is asked of the emulated device.

import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import {
  backendInfo,
  devices,
  dispatch,
  finished,
  memory,
  tensor,
  trimMemory,
  zeros,
} from '../../src/index.ts';
import { runNode } from '../support/child.ts';
import { DEVICES } from '../support/targets.ts';

const GPUS = DEVICES.filter(device => device !== 'cpu');
const emulated = backendInfo().cuda.includes('SIMT emulation');

/** What a scenario of children/device.ts prints on the emulated device with these settings. */
async function child(
  scenario: string,
  env: Record<string, string> = {},
  device = 'cuda:0',
): Promise<unknown> {
  const script = fileURLToPath(new URL('./children/device.ts', import.meta.url));
  const { code, stdout, stderr } = await runNode(['--import', 'tsx', script, scenario, device], { env });
  expect({ code, stderr: code === 0 ? '' : stderr }).toEqual({ code: 0, stderr: '' });
  return JSON.parse(stdout);
}

it('a build without the CUDA backend says so', context => {
  if (backendInfo().cuda !== 'this build has no CUDA backend') context.skip('this build has it');
  expect(devices().map(({ name }) => name)).toEqual(['cpu']);
  expect(memory().pools).toEqual([]);
  expect(memory().pinnedBytes).toBe(0);
});

// Only the emulated driver can be told what to find.
describe.skipIf(!emulated)('what the driver shows', () => {
  const unsupported = (device: string, cuda: string) =>
    `ERR_UNSUPPORTED options.device: ${device} is not available: ${cuda}`;

  it.each([
    ['no driver', { MOE_SIMT_DRIVER: '0' }, 'no NVIDIA driver'],
    [
      'an old driver',
      { MOE_SIMT_DRIVER: '11040' },
      'the NVIDIA driver supports CUDA 11.4, this build needs 13.0',
    ],
    ['no GPU', { MOE_SIMT_DEVICES: '0' }, 'an NVIDIA driver for CUDA 13.0, but no GPU'],
    [
      'an old GPU',
      { MOE_SIMT_CC: '70' },
      'cuda:0 SIMT emulation, sm_70 (too old: compute capability 7.0, 8.0 or newer is needed)',
    ],
  ])('%s', async (_, env, cuda) => {
    expect(await child('found', env)).toEqual({
      devices: ['cpu'],
      cuda,
      missing: unsupported('cuda:0', cuda),
    });
  });

  it('an old GPU before a new one, which keeps its number', async () => {
    const env = { MOE_SIMT_FIRST_CC: '70', MOE_SIMT_CC: '90', MOE_SIMT_DEVICES: '2' };
    const cuda =
      'cuda:0 SIMT emulation, sm_70 (too old: compute capability 7.0, 8.0 or newer is needed), ' +
      'cuda:1 SIMT emulation, sm_90 (compute capability 9.0)';
    expect(await child('found', env)).toEqual({
      devices: ['cpu', 'cuda:1'],
      cuda,
      missing: unsupported('cuda:0', cuda),
    });
    const { error } = (await child('works', env, 'cuda:1')) as { error: number };
    expect(error).toBeLessThan(1e-5);
  });
});

describe.each(GPUS)('memory of %s', device => {
  const pool = () => memory().pools.find(each => each.device === device)!;
  // Whoever waits is told before what the wait kept is let go of: the second wait comes after that.
  const settled = async () => {
    await finished(device);
    await finished(device);
  };

  it('is counted: in use, reserved, at most', async () => {
    zeros([1], { device }).dispose();
    await settled();
    trimMemory();
    const before = pool();
    const bytes = 4 << 20;
    const held = zeros([bytes / 4], { device });
    await settled();
    expect(pool().bytesInUse).toBeGreaterThanOrEqual(before.bytesInUse + bytes);
    expect(pool().peakBytes).toBeGreaterThanOrEqual(pool().bytesInUse);
    held.dispose();
    await settled();
    expect(pool().bytesInUse).toBe(before.bytesInUse);
    expect(pool().bytesReserved).toBeGreaterThanOrEqual(before.bytesInUse + bytes);
    trimMemory();
    expect(pool().bytesReserved).toBe(before.bytesReserved);
  });

  it('for staging is kept, and given back', async () => {
    trimMemory();
    using held = tensor(new Float32Array(1 << 18), [1 << 18], { device });
    await settled();
    expect(memory().pinnedBytes).toBeGreaterThanOrEqual(1 << 20);
    trimMemory();
    expect(memory().pinnedBytes).toBe(0);
    expect(held.dataSync()).toEqual(new Float32Array(1 << 18));
  });
});

describe.skipIf(!emulated)('a GPU of little memory', () => {
  it('keeps page-locked memory within its bound', async () => {
    const { kept } = (await child('pinned', { MOE_KERNELS_PINNED_BYTES: '65536' })) as { kept: number };
    expect(kept).toBeLessThanOrEqual(65536);
  });

  it('runs out of it, at the call and while running, and is as good as before', async () => {
    const report = (await child('out of memory', { MOE_SIMT_MEMORY: String(6 << 20) })) as Record<
      string,
      unknown
    >;
    expect(report).toEqual({
      before: expect.any(Number),
      atTheCall:
        'ERR_OUT_OF_MEMORY memory: expected 268435456 bytes on cuda:0, got none (cudaErrorMemoryAllocation)',
      whileRunning: expect.stringMatching(
        /^ERR_OUT_OF_MEMORY expertsForward: memory: expected 4194304 bytes on cuda:0, got none/,
      ),
      whileCapturing: expect.stringMatching(
        /^ERR_OUT_OF_MEMORY expertsForward: memory: expected 4194304 bytes/,
      ),
      leaked: 0,
      after: report.before,
    });
    expect(report.before).toBeLessThan(1e-5);
  });

  it('gets back what graphs took', async () => {
    const { rounds } = (await child('many captures')) as { rounds: number[] };
    expect(rounds[2]).toBe(rounds[0]);
  });
});

describe.skipIf(!emulated)('a GPU that fails', () => {
  it('is lost to the process, which goes on', async () => {
    // Found by the wait, or by the next call of the op if the kernel was quick.
    const failed = /^ERR_DEVICE cast: .+: cudaErrorIllegalAddress, an illegal memory access was encountered$/;
    expect(await child('lost device')).toEqual({
      first: expect.stringMatching(failed),
      again: [
        expect.stringMatching(/^ERR_DEVICE .*cudaErrorIllegalAddress/),
        expect.stringMatching(/^ERR_DEVICE .*cudaErrorIllegalAddress/),
        expect.stringMatching(/^ERR_DEVICE .*cudaErrorIllegalAddress/),
      ],
      cpu: true,
    });
  });
});

describe.each(DEVICES)('waits on %s', device => {
  const badDispatch = (expert: number) => {
    using indices = tensor([expert], [1, 1], { dtype: 'int32', device });
    for (const part of Object.values(dispatch({ indices, experts: 4 }))) part.dispose();
  };

  it('report each what failed before them and after the wait before', async () => {
    const waits = [finished(device)];
    for (const expert of [7, 8]) {
      badDispatch(expert);
      waits.push(finished(device));
    }
    waits.push(finished(device));
    const outcomes = (await Promise.allSettled(waits)).map(wait =>
      wait.status === 'rejected' ? wait.reason.message : '',
    );
    expect(outcomes).toEqual(['', expect.stringContaining('got 7'), expect.stringContaining('got 8'), '']);
  });
});
