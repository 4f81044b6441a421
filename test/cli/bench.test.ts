// `moe-kernels bench` and its pieces: it times nothing that is wrong, and says what it timed.

import { describe, expect, test, vi } from 'vitest';
import { expandSweep } from '../../bench/campaign.ts';
import { floorMs, measureCeilings } from '../../bench/ceilings.ts';
import { checkWorkload } from '../../bench/check.ts';
import { measure } from '../../bench/measure.ts';
import { checkMemory, requiredBytes } from '../../bench/memory.ts';
import { MODEL_LAYERS } from '../../bench/model-layers.ts';
import type { BenchResult } from '../../bench/result.ts';
import { runBench } from '../../bench/run.ts';
import {
  bytes,
  flops,
  type LayerShape,
  PASSES,
  type Pass,
  parseShape,
  SHAPES,
  weightCount,
} from '../../bench/shapes.ts';
import { Workload } from '../../bench/workload.ts';
import {
  type FloatDType,
  getThreads,
  type MoeGradients,
  type MoeSaved,
  memory,
  type SaveMode,
  setThreads,
  type Tensor,
} from '../../src/index.ts';
import { jsonLines, run } from './support/command.ts';
import { withWrongForward } from './support/wrong-layer.ts';

const SMALL = '24,16,20,6,2';
/** Of the weights, and what a pass makes of their size. */
const leastBytes = (pass: Pass, dtype: FloatDType) =>
  (pass === 'forward' ? 1 : 2) * weightCount(parseShape('shape', SMALL)) * (dtype === 'float32' ? 4 : 2);
const DTYPES: FloatDType[] = ['float32', 'bfloat16', 'float16'];

/** Picks the tensor to be damaged from what a call made. */
type Damage = (made: {
  y?: Tensor;
  routing?: { weights: Tensor };
  gradients?: MoeGradients;
}) => Tensor | undefined;

class DamagedWorkload extends Workload {
  readonly #damage: Damage;
  readonly #factor: number;

  constructor(shape: LayerShape, damage: Damage, factor: number) {
    super(shape, 'float32', 'cpu');
    this.#damage = damage;
    this.#factor = factor;
  }

  override forward(save: SaveMode) {
    const result = super.forward(save);
    this.#apply(result);
    return result;
  }

  override backward(saved: MoeSaved) {
    const gradients = super.backward(saved);
    this.#apply({ gradients });
    return gradients;
  }

  #apply(made: Parameters<Damage>[0]): void {
    const target = this.#damage(made);
    if (!target) return;
    target.write((target.dataSync() as Float32Array).map(value => value * this.#factor));
  }
}

describe('the check', () => {
  test.each(
    DTYPES.flatMap(dtype =>
      [SMALL, '1,8,8,1,1', '5,3,7,4,4', '40,16,12,3,1'].map(shape => ({ dtype, shape })),
    ),
  )('$dtype $shape is right', async ({ dtype, shape }) => {
    const before = memory().tensors;
    using workload = new Workload(parseShape('shape', shape), dtype, 'cpu');
    const comparisons = await checkWorkload(workload, true);
    expect(comparisons.filter(({ holds }) => !holds)).toEqual([]);
    workload.dispose();
    expect(memory().tensors).toBe(before);
  });

  test.each(Object.values(SHAPES).map(({ activation }) => activation))('%s is right', async activation => {
    using workload = new Workload({ ...parseShape('shape', SMALL), activation }, 'float32', 'cpu');
    expect((await checkWorkload(workload, true)).every(({ holds }) => holds)).toBe(true);
  });

  test.each<[string, Damage]>([
    ['topk.weight', ({ routing }) => routing?.weights],
    ['y', ({ y }) => y],
    ['dx', ({ gradients }) => gradients?.dx],
    ['d.topk.weight', ({ gradients }) => gradients?.dWeights],
    ['d.logits', ({ gradients }) => gradients?.dLogits],
    ['d.router.weight', ({ gradients }) => gradients?.dRouterWeight],
    ['d.experts.gate_up', ({ gradients }) => gradients?.experts.gateUp],
    ['d.experts.down', ({ gradients }) => gradients?.experts.down],
  ])('finds a wrong %s', async (name, damage) => {
    for (const factor of [1.001, Number.NaN]) {
      using workload = new DamagedWorkload(parseShape('shape', SMALL), damage, factor);
      const wrong = (await checkWorkload(workload, true)).filter(({ holds }) => !holds);
      expect(wrong.map(comparison => comparison.name)).toContain(name);
    }
  });

  test('a wrong result is not timed, and the exit code is 1', async () => {
    const { exitCode, stdout, stderr } = await withWrongForward(() =>
      run('bench', '--shape', SMALL, '--pass', 'forward', '--json'),
    );
    expect([exitCode, stdout]).toEqual([1, '']);
    const message = 'the result differs from the reference, so it is not timed: y 1.0e+0 > 1.0e-5';
    expect(jsonLines(stderr)).toEqual([{ error: { code: 'ERR_WRONG_RESULT', message } }]);
  });
});

describe('the measurement', () => {
  test('warms up, then runs until the time is reached', async () => {
    const calls: string[] = [];
    const clock = vi.spyOn(performance, 'now');
    let now = 0;
    clock.mockImplementation(() => now);
    const durations = [9, 9, 4, 1, 3, 2, 5, 1, 3];
    const measured = {
      prepare: () => calls.push('prepare'),
      run: () => {
        now += durations[calls.filter(call => call === 'prepare').length - 1]!;
      },
      clear: () => calls.push('clear'),
    };
    try {
      expect(await measure(measured, { minTimeMs: 18 })).toEqual({
        ...{ medianMs: 3, lowMs: 1, highMs: 5, p10Ms: 1, minMs: 1, runs: 7 },
        p90Ms: expect.closeTo(4.4),
      });
    } finally {
      clock.mockRestore();
    }
    expect(calls).toEqual(Array.from({ length: 9 }, () => ['prepare', 'clear']).flat());
  });

  test('floating-point operations', () => {
    const shape = SHAPES['mixtral-mini']!;
    const forward = 6 * 512 * 2 * 1024 * 3584;
    expect(PASSES.map(pass => flops(shape, pass))).toEqual([forward, 2 * forward, 3 * forward]);
    expect(flops(SHAPES['switch-mini']!, 'forward')).toBe(4 * 2048 * 768 * 3072);
  });

  test('bytes that cannot be avoided', () => {
    const shape = SHAPES['mixtral-mini']!;
    const weights = 3 * 1024 * 3584;
    const [forward, backward, both] = PASSES.map(pass => bytes(shape, pass, 2, 5));
    expect(forward).toBe(2 * (5 * weights + 2 * 512 * 1024));
    expect(backward).toBe(2 * (5 * weights + 8 * weights + 3 * 512 * 1024 + 2 * 512 * 2 * 3584));
    expect(both).toBe(forward! + backward! + 2 * 2 * 512 * 2 * 3584);
    expect(bytes(SHAPES['switch-mini']!, 'forward', 4, 1)).toBe(4 * (2 * 768 * 3072 + 2 * 2048 * 768));
  });

  test('the floor is what takes longer, computing or moving bytes', () => {
    const cost = { flops: 6e9, bytes: 1e9 };
    expect(floorMs(cost, { flopsPerSecond: 6e9, bytesPerSecond: 2e9 })).toBe(1000);
    expect(floorMs(cost, { flopsPerSecond: 12e9, bytesPerSecond: 1e9 / 3 })).toBeCloseTo(3000);
  });

  test.each(DTYPES)('the ceilings in %s are some number of GFLOP/s and GB/s', dtype => {
    const { flopsPerSecond, bytesPerSecond } = measureCeilings(dtype, 0.01);
    for (const ceiling of [flopsPerSecond, bytesPerSecond]) {
      expect(ceiling).toBeGreaterThan(1e8);
      expect(ceiling).toBeLessThan(1e15);
    }
  });

  test('a layer that does not fit is refused before anything is allocated', () => {
    const shape = SHAPES['mixtral-mini']!;
    const required = requiredBytes(shape, true, 4);
    expect(required).toBeGreaterThan(2 * 4 * 3 * 8 * 1024 * 3584);
    const run = { backward: true, elementBytes: 4 };
    expect(() => checkMemory('mixtral-mini', shape, run, required)).not.toThrow();
    expect(() => checkMemory('mixtral-mini', shape, run, 5e8)).toThrow(
      /^shape: expected a layer that fits 0\.5 GB of available memory, got mixtral-mini, which needs \d\.\d GB$/,
    );
    expect(requiredBytes(shape, true, 2)).toBeLessThan(0.7 * required);
    expect(requiredBytes({ ...shape, logits: 4096, slots: 4096 }, true, 4)).toBeGreaterThan(required + 1.2e8);
  });

  test('leaves no tensor behind', async () => {
    const before = memory().tensors;
    const threads = getThreads();
    const cases = expandSweep({
      shapes: [{ shape: SMALL, ...parseShape('shape', SMALL) }],
      ...{ dtypes: ['float32'], threads: [1, 2], passes: PASSES, device: 'cpu', tf32: false, graph: 'off' },
      caches: ['cold'],
    });
    let results = 0;
    for await (const { copies } of runBench(cases, { minTimeMs: 1 })) {
      expect(copies).toBeGreaterThan(1);
      results++;
    }
    setThreads(threads);
    expect([results, memory().tensors]).toEqual([6, before]);
  });
});

describe('the command', () => {
  test('a JSON line for each dtype and pass', async () => {
    const threads = getThreads();
    const { exitCode, stdout, stderr } = await run(
      ...['bench', '--shape', SMALL, '--dtype', DTYPES.join(), '--pass', PASSES.join()],
      ...['--threads', '1', '--min-time', '0.001', '--json'],
    );
    setThreads(threads);
    expect([exitCode, stderr]).toEqual([0, '']);
    const lines = jsonLines(stdout);
    expect(lines.map(({ dtype, pass }) => [dtype, pass])).toEqual(
      DTYPES.flatMap(dtype => PASSES.map(pass => [dtype, pass])),
    );
    for (const line of lines) {
      expect(Object.keys(line).slice(0, 12)).toEqual([
        ...['shape', 'dtype', 'device', 'pass', 'threads'],
        ...['medianMs', 'lowMs', 'highMs', 'p10Ms', 'p90Ms', 'minMs', 'runs'],
      ]);
      expect(line).toMatchObject({
        shape: SMALL,
        device: 'cpu',
        threads: 1,
        tokens: 24,
        activation: 'swiglu',
      });
      expect(line).toMatchObject({ cache: 'cold', minTimeMs: 1, maxTimeMs: 5, precision: 2 });
      const { medianMs, minMs, lowMs, highMs, tflops, floorMs, expertLoad, pass, dtype } =
        line as unknown as BenchResult;
      const { rulers, rulersLow, rulersHigh, peakBytes } = line as unknown as Required<BenchResult>;
      expect(rulersLow).toBeGreaterThan(0);
      expect([rulersLow, rulers, rulersHigh]).toEqual([rulersLow, rulers, rulersHigh].sort((a, b) => a - b));
      expect(peakBytes).toBeGreaterThan(leastBytes(pass, dtype));
      expect(peakBytes).toBeLessThan(8 * leastBytes(pass, dtype));
      expect(minMs).toBeGreaterThan(0);
      expect(floorMs).toBeGreaterThan(0);
      expect([minMs, lowMs, medianMs, highMs]).toEqual(
        [minMs, lowMs, medianMs, highMs].sort((a, b) => a - b),
      );
      expect(expertLoad).toHaveLength(6);
      expect(expertLoad.reduce((a, b) => a + b)).toBe(24 * 2);
      expect(tflops * medianMs * 1e9).toBeCloseTo(flops(parseShape('shape', SMALL), pass), 0);
    }
  });

  test('a table for people', async () => {
    const { exitCode, stdout } = await run(
      'bench',
      '--shape',
      SMALL,
      '--activation',
      'relu2',
      '--min-time',
      '0.001',
    );
    expect(stdout).toMatch(/^Checked first\..*\n(~: .*\n)?\nH 16, I 20, E 6, K 2, relu2, cpu \(.+\)\n/);
    expect(stdout).toMatch(
      /\nT24 float32 both ×\d+ {2,}~?[\d.]+ \([\d.]+–[\d.]+\) {2,}[\d.e-]+ {2,}\d+ %\n$/,
    );
    expect(exitCode).toBe(0);
  });

  test('every combination once, each layer made once for all passes and threads', async () => {
    const made = vi.spyOn(Workload.prototype, 'dispose');
    const threads = getThreads();
    try {
      const { exitCode, stdout } = await run(
        ...['bench', '--shape', SMALL, '9,16,20,6,2', '--tokens', '9,2,9', '--threads', '2,1'],
        ...['--pass', 'forward,backward', '--cache', 'warm', '--min-time', '0.001', '--json'],
      );
      expect(exitCode).toBe(0);
      const expected = ['9,16,20,6,2', '2,16,20,6,2'].flatMap(shape =>
        [2, 1].flatMap(count => ['forward', 'backward'].map(pass => [shape, count, pass])),
      );
      expect(jsonLines(stdout).map(line => [line.shape, line.threads, line.pass])).toEqual(expected);
      expect(made).toHaveBeenCalledTimes(2);
    } finally {
      made.mockRestore();
      setThreads(threads);
    }
  });

  test('the names of shapes, in 80 columns or as JSON lines', async () => {
    const table = await run('bench', '--list');
    const lines = table.stdout.trimEnd().split('\n');
    expect(Math.max(...lines.map(line => line.trimEnd().length))).toBeLessThanOrEqual(80);
    const cells = lines.map(line => line.trim().split(/ {2,}/));
    expect(cells).toContainEqual([
      'deepseek-v3',
      '4096',
      '7168',
      '2048',
      '256',
      '8',
      'swiglu, sigmoid bias groups',
    ]);
    const all = jsonLines((await run('bench', '--list', '--json')).stdout);
    expect(all.map(({ shape }) => shape)).toEqual([...Object.keys(SHAPES), ...MODEL_LAYERS.keys()]);
    expect(all.at(-1)).toMatchObject({ shape: 'nemotron-3-nano:decode', tokens: 1, router: { scale: 2.5 } });
  });

  test('every shape with every router, which results and their tables name', async () => {
    const args = ['bench', '--shape', SMALL, '--pass', 'forward', '--min-time', '0.001'];
    const routers = ['--router', 'own,sigmoid,expert-choice'];
    const lines = jsonLines((await run(...args, ...routers, '--json')).stdout);
    expect(lines.map(({ router }) => router)).toEqual([undefined, 'sigmoid', 'expert-choice']);
    expect(lines[2]!.expertLoad).toEqual(Array(6).fill(8));
    const { stdout } = await run(...args, '--router', 'sigmoid');
    expect(stdout).toContain('\nH 16, I 20, E 6, K 2, swiglu, sigmoid, cpu (');
  });

  test('a layer that does not fit is refused before any other is timed', async () => {
    const result = await run('bench', '--shape', SMALL, '1,1000000,1000000,1000,2', '--json');
    expect([result.exitCode, result.stdout]).toEqual([2, '']);
  });
});
