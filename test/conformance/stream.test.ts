// Order against another stream of the same GPU, here that of a worker thread: neither reads before the other has written.

import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import {
  capture,
  finished,
  signalStream,
  streamOf,
  tensorFromPointer,
  waitForStream,
} from '../../src/index.ts';
import { DEVICES } from '../support/targets.ts';

const GPUS = DEVICES.filter(device => device !== 'cpu');
const SIZE = 4096;

describe.each(GPUS)('%s', device => {
  it('waits for a stream, and lets it wait', async () => {
    const boot = new URL('../lifetime/support/worker-boot.mjs', import.meta.url);
    const program = new URL('../support/stream-peer.ts', import.meta.url).href;
    const worker = new Worker(boot, { workerData: { program, device, size: SIZE } });
    const [{ stream, pointer }] = await once(worker, 'message');
    expect(stream).not.toBe(streamOf(device));

    using memory = tensorFromPointer(pointer, 'float32', [SIZE], { device });
    waitForStream(device, stream);
    expect(memory.dataSync()).toEqual(new Float32Array(SIZE).fill(1));

    memory.write(new Float32Array(SIZE).fill(2));
    signalStream(device, stream);
    const read = once(worker, 'message');
    worker.postMessage('read');
    expect((await read)[0]).toEqual(new Float32Array(SIZE).fill(2));
    await once(worker, 'exit');
    await finished(device);
  });

  it('has one stream, and takes the legacy one', async () => {
    expect(streamOf(device)).toBe(streamOf(device));
    expect(streamOf(device)).toBeGreaterThan(0n);
    waitForStream(device, 0n);
    signalStream(device, 0n);
    await finished(device);
  });

  it('refuses what is no stream, and streams within a capture', async () => {
    const bad = expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' });
    for (const order of [waitForStream, signalStream]) {
      expect(() => order(device, -1n)).toThrow(bad);
      expect(() => order(device, 5 as never)).toThrow(bad);
      expect(() => capture(device, () => order(device, 0n))).toThrow(
        expect.objectContaining({ code: 'ERR_CAPTURE' }),
      );
    }
    await finished(device);
  });
});

it('the CPU has no streams', () => {
  const error = expect.objectContaining({
    code: 'ERR_UNSUPPORTED',
    message: 'device: expected a device with streams, cuda:N, got cpu',
  });
  expect(() => streamOf('cpu')).toThrow(error);
  expect(() => waitForStream('cpu', 0n)).toThrow(error);
  expect(() => signalStream('cpu', 0n)).toThrow(error);
  expect(() => streamOf('gpu' as never)).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }));
});
