// What benchmarks measure with on every device: its clock, its ceilings, its graphs.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { capturedCall } from '../../bench/captured-call.ts';
import { type Ceilings, floorMs } from '../../bench/ceilings.ts';
import { timeOn } from '../../bench/clock.ts';
import { gpuOf } from '../../bench/gpu.ts';
import { ceilingSizes, measureGpuCeilings } from '../../bench/gpu-ceilings.ts';
import { type BenchRequest, type BenchResult, bench } from '../../bench/index.ts';
import { type MeasuredPass, measuredPass } from '../../bench/measured-case.ts';
import { PASSES, parseShape, weightCount } from '../../bench/shapes.ts';
import { Workload } from '../../bench/workload.ts';
import { backendInfo, devices, Graph, groupedMatmul, memory, tensor, zeros } from '../../src/index.ts';
import { native } from '../../src/native.ts';
import { jsonLines, run } from '../cli/support/command.ts';
import { temporaryFiles } from '../cli/support/safetensors.ts';
import { DEVICES, DTYPES } from '../support/targets.ts';
import { downloadBytes } from '../support/tensors.ts';

const SMALL = '4,16,20,6,2';
const { folder } = temporaryFiles();

afterEach(() => void vi.restoreAllMocks());

describe.each(DEVICES)('on %s', device => {
  const onGpu = device !== 'cpu';

  async function resultsOf(request: BenchRequest): Promise<BenchResult[]> {
    const results: BenchResult[] = [];
    for await (const result of bench({
      ...{ shapes: [SMALL], device, minTimeMs: 1, caches: ['warm'] },
      ...request,
    }))
      results.push(result);
    return results;
  }

  it('a result has the times of the clock that it names', async () => {
    const events = vi.spyOn(native, 'milliseconds').mockReturnValue(7);
    const [{ clock, medianMs, minMs, runs }] = (await resultsOf({ passes: ['forward'] })) as [BenchResult];
    if (onGpu)
      expect({ clock, medianMs, minMs, runs }).toEqual({ clock: 'event', medianMs: 7, minMs: 7, runs: 6 });
    else expect([clock, events.mock.calls]).toEqual(['wall', []]);
  });

  it('the clock runs from an idle device to the end of what a call enqueues', () => {
    using rows = zeros([192, 64], { device });
    using weight = zeros([1, 64, 64], { device });
    using offsets = tensor([0, 192], [2], { dtype: 'int32', device });
    const work = () => {
      for (let i = 0; i < 20; i++) groupedMatmul({ rows, weight, offsets }).out.dispose();
    };
    const elapsed = timeOn(device, work);
    work();
    expect(timeOn(device, () => {})).toBeLessThan(elapsed / 4);
  });

  it('a result says on what it was measured, and how far from its ceilings it stayed', async () => {
    const [result] = (await resultsOf({ passes: ['forward'] })) as [BenchResult];
    expect(result.floorMs).toBe(floorMs(result, result as Ceilings));
    const gpu = ['deviceName', 'computeCapability', 'clockMHz', 'cudaDriver', 'cudaRuntime'] as const;
    expect(gpu.filter(field => result[field] !== undefined)).toEqual(onGpu ? gpu : []);
    if (!onGpu) return;
    expect(result.deviceName).toBe(devices().find(({ name }) => name === device)!.description);
    expect(backendInfo().cuda).toContain(`compute capability ${result.computeCapability})`);
  });

  it('the peak is of one run: the layer, what the pass makes of it, and nothing of the run before', async () => {
    const results = await resultsOf({ passes: ['both', 'forward'] });
    const [both, forward] = (['both', 'forward'] as const).map(
      asked => results.find(({ pass }) => pass === asked)!.peakBytes!,
    ) as [number, number];
    const weights = 4 * weightCount(parseShape('shape', SMALL));
    expect(forward).toBeGreaterThan(weights);
    expect(forward).toBeLessThan(2 * weights);
    // Their gradients.
    expect(both).toBeGreaterThan(forward + weights);
    expect(both).toBeLessThan(4 * weights);
  });

  if (!onGpu) return;

  it('a result of another GPU counts for nothing, and is no baseline', async () => {
    const out = join(folder, 'results.jsonl');
    const command = [
      ...['bench', '--shape', SMALL, '--device', device, '--warm'],
      ...['--min-time', '0.001', '--out', out],
    ];
    await run(...command);
    const result = jsonLines<BenchResult>(readFileSync(out, 'utf8'))[0]!;
    writeFileSync(out, `${JSON.stringify({ ...result, deviceName: 'NVIDIA Abacus' })}\n`);
    await run(...command);
    const again = jsonLines<BenchResult>(readFileSync(out, 'utf8'));
    expect(again.map(({ deviceName }) => deviceName)).toEqual(['NVIDIA Abacus', result.deviceName]);
    const { exitCode, stderr } = await run(...command, '--baseline', out);
    expect([exitCode, stderr]).toEqual([
      2,
      `moe-kernels: --baseline: expected results of the same ${device}, ${result.deviceName}, ` +
        `got those of NVIDIA Abacus in ${out}\n`,
    ]);
  });

  it.each(DTYPES)('ceilings of %s are those of one product and of copies, by events', dtype => {
    const before = memory().tensors;
    const { side, copiedBytes } = ceilingSizes(gpuOf(device)!, dtype === 'float32' ? 4 : 2);
    const product = vi.spyOn(native, 'groupedMatmul');
    vi.spyOn(native, 'milliseconds').mockReturnValue(8);
    const { flopsPerSecond, bytesPerSecond } = measureGpuCeilings(device, dtype, 0.001);
    // Eight calls at a time, once to warm up.
    expect(product.mock.calls.length).toBeLessThanOrEqual(2 * 8);
    expect([flopsPerSecond, bytesPerSecond]).toEqual([2 * side ** 3 * 1e3, 2 * copiedBytes * 1e3]);
    expect(memory().tensors).toBe(before);
  });

  it('a pass is launched op by op and as a graph, each a result of its own', async () => {
    const before = memory().tensors;
    const replay = vi.spyOn(Graph.prototype, 'replay');
    const results = await resultsOf({ passes: ['backward'], graph: 'both' });
    expect(results.map(({ graph }) => graph)).toEqual([undefined, true]);
    // After one for the peak, and two to warm up.
    expect(replay).toHaveBeenCalledTimes(1 + 2 + results[1]!.runs);
    expect(memory().tensors).toBe(before);
  });

  it('copies of the layer take turns until its weights have left the cache, each with a graph of its own', async () => {
    const before = memory().tensors;
    const info = native.info();
    const l2Bytes = 4 * weightCount(parseShape('shape', SMALL));
    const gpus = info.gpus.map(gpu => ({ ...gpu, l2Bytes }));
    vi.spyOn(native, 'info').mockReturnValue({ ...info, gpus });
    const replay = vi.spyOn(Graph.prototype, 'replay');
    const results = await resultsOf({ passes: ['backward'], graph: 'both', caches: ['cold'] });
    // Twice the cache, of the experts that are read.
    const read = results[0]!.expertLoad.filter(rows => rows > 0).length / 6;
    const copies = Math.ceil(2 / read);
    expect(results.map(result => [result.copies, result.cache])).toEqual(Array(2).fill([copies, 'cold']));
    // After one for the peak.
    const replayed = replay.mock.contexts.slice(1);
    const graphs = new Set(replayed);
    expect(graphs.size).toBe(copies);
    expect(replayed).toEqual(replayed.map((_, i) => [...graphs][i % copies]));
    expect(memory().tensors).toBe(before);
  });

  it.each(PASSES)('a captured pass computes the same: %s', pass => {
    using workload = new Workload(parseShape('shape', SMALL), 'float32', device);
    const bytesOf = (measured: MeasuredPass) => {
      measured.prepare();
      measured.run();
      const { forward, gradients } = measured.made();
      // The layer keeps y.
      const y = Float32Array.from(forward.y.dataSync() as Float32Array);
      return { y, gradients: downloadBytes(gradients) };
    };
    const plain = measuredPass(workload, pass);
    const expected = bytesOf(plain);
    plain.clear();
    using captured = capturedCall(device, measuredPass(workload, pass));
    expect(bytesOf(captured)).toEqual(expected);
  });
});
