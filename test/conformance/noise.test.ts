// Noise of the router: its numbers against the float64 reference, what they depend on, how they are distributed, and when
// there are none.

import { afterEach, describe, expect, test } from 'vitest';
import {
  type DeviceName,
  getThreads,
  moeForward,
  type RouteArgs,
  type RouterNoise,
  route,
  setThreads,
} from '../../src/index.ts';
import { noiseOf } from '../reference/logits.ts';
import { gumbel, normalQuantile, uniforms } from '../reference/noise.ts';
import { expectClose, expectSameBytes } from '../support/compare.ts';
import { layerInputs, uploadLayer } from '../support/layer.ts';
import { seeded } from '../support/random.ts';
import { DEVICES, TARGETS } from '../support/targets.ts';
import { download, downloadBytes, free, upload } from '../support/tensors.ts';

const zeros = (count: number) => new Float32Array(count);
/** softplus(UNIT) = 1 */
const UNIT = Math.log(Math.E - 1);

interface Draw {
  noise: RouterNoise;
  step?: number;
  rows: number;
  columns: number;
}

/** The random numbers themselves, as the logits show them: of jitter, those that x is multiplied by. */
function drawn({ noise, step, rows, columns }: Draw, device: DeviceName): Float32Array {
  const shape = [rows, columns];
  const floats = (values: Float32Array, of: number[]) => upload(values, of, 'float32', device);
  const isJitter = noise.kind === 'jitter';
  const identity = zeros(columns * columns).map((_, i) => (i % (columns + 1) === 0 ? 1 : 0));
  const source: Partial<RouteArgs> = isJitter
    ? { x: floats(zeros(rows * columns).fill(1), shape), weight: floats(identity, [columns, columns]) }
    : { logits: floats(zeros(rows * columns), shape) };
  const noiseLogits =
    noise.kind === 'noisyTopK' ? floats(zeros(rows * columns).fill(UNIT), shape) : undefined;
  const routing = route({ ...source, ...(noiseLogits && { noiseLogits }), noise, step, topK: 1 });
  const values = routing.logits.dataSync() as Float32Array;
  free(routing);
  return values;
}

const SOURCES = [
  { seed: 0, step: 0 },
  { seed: 1, step: 0 },
  { seed: 0, step: 1 },
  { seed: 2 ** 32, step: 0 },
  { seed: 0, step: 2 ** 32 },
  { seed: Number.MAX_SAFE_INTEGER, step: Number.MAX_SAFE_INTEGER },
];
const KINDS = {
  jitter: { noise: { kind: 'jitter', eps: 0.5 }, of: (u: number) => 1 + 0.5 * (2 * u - 1) },
  gumbel: { noise: { kind: 'gumbel' }, of: gumbel },
  noisyTopK: { noise: { kind: 'noisyTopK' }, of: normalQuantile },
} as const satisfies Record<string, { noise: RouterNoise; of: (u: number) => number }>;
const NAMES = Object.keys(KINDS) as (keyof typeof KINDS)[];

const threads = getThreads();
afterEach(() => setThreads(threads));

const mean = (values: ArrayLike<number>) => Array.from(values).reduce((a, b) => a + b, 0) / values.length;
const moment = (values: ArrayLike<number>, order: number) => {
  const centre = mean(values);
  return mean(Float64Array.from(values, value => (value - centre) ** order));
};

describe.each(DEVICES)('noise on %s', device => {
  describe.each(NAMES)('%s', name => {
    const { noise, of } = KINDS[name];

    test.each(SOURCES)('the numbers of seed $seed at step $step', ({ seed, step }) => {
      for (const [rows, columns] of [
        [1, 1],
        [3, 7],
        [40, 33],
        [5, 64],
      ] as const) {
        const found = drawn({ noise: { ...noise, seed }, step, rows, columns }, device);
        const expected = uniforms(seed, step, rows, columns).map(of);
        // Element by element: a number that is wrong alone must show.
        const far = expected.findIndex(
          (value, i) => !(Math.abs(found[i]! - value) <= 1e-6 * (1 + Math.abs(value))),
        );
        if (far >= 0)
          expect.fail(`element ${far} of [${rows}, ${columns}]: ${found[far]} for ${expected[far]}`);
      }
    });

    test('no two seeds, steps or rows share their numbers', () => {
      const [rows, columns] = [20, 9];
      const all = SOURCES.map(({ seed, step }) =>
        drawn({ noise: { ...noise, seed }, step, rows, columns }, device),
      );
      const rowsOf = all.flatMap(values =>
        Array.from({ length: rows }, (_, row) => values.subarray(row * columns, (row + 1) * columns).join()),
      );
      expect(new Set(rowsOf).size).toBe(rows * SOURCES.length);
    });

    test('the same bits for every number of threads, and in every batch', () => {
      const size = { noise: { ...noise, seed: 3 }, step: 4, columns: 37 };
      setThreads(1);
      const whole = drawn({ ...size, rows: 700 }, device);
      for (const count of [2, 3, 5]) {
        setThreads(count);
        expect(drawn({ ...size, rows: 700 }, device)).toEqual(whole);
      }
      for (const rows of [1, 6, 300]) {
        expect(drawn({ ...size, rows }, device)).toEqual(whole.subarray(0, rows * size.columns));
      }
    });

    test('none without a step, nor once it has faded', () => {
      const quiet = Array.from(drawn({ noise, rows: 6, columns: 5 }, device));
      expect(new Set(quiet)).toEqual(new Set([name === 'jitter' ? 1 : 0]));
      const faded = { ...noise, anneal: { steps: 10 } };
      for (const step of [10, 11, 2 ** 40])
        expect([...drawn({ noise: faded, step, rows: 6, columns: 5 }, device)]).toEqual(quiet);
    });

    test.each([
      { steps: 8 },
      { steps: 8, to: 0.5 },
      { steps: 8, to: 0.25, shape: 'cosine' },
      { steps: 8, to: 0.0625, shape: 'exponential' },
    ] as const)('annealed by %o', anneal => {
      const rest = name === 'jitter' ? 1 : 0;
      for (const step of [0, 1, 2, 4, 7]) {
        const source = { noise: { ...noise, seed: 5, anneal }, step };
        const found = drawn({ ...source, rows: 9, columns: 8 }, device);
        const { strength, draw } = noiseOf(source)!;
        const full = name === 'jitter' ? 0.5 : 1;
        const numbers = draw(9, 8).map(u => rest + (strength / full) * (of(u) - rest));
        expectClose(`step ${step}`, found, numbers, 1e-6);
      }
    });
  });

  test('as they should be distributed', () => {
    const size = { step: 7, rows: 1000, columns: 100 };
    const g = drawn({ ...size, noise: { kind: 'gumbel' } }, device);
    // A standard deviation of each estimate of 100 000 numbers is below a quarter of its tolerance.
    expect(Math.abs(mean(g) - 0.5772156649)).toBeLessThan(0.02);
    expect(Math.abs(moment(g, 2) / (Math.PI ** 2 / 6) - 1)).toBeLessThan(0.03);
    const n = drawn({ ...size, noise: { kind: 'noisyTopK' } }, device);
    expect(Math.abs(mean(n))).toBeLessThan(0.015);
    expect(Math.abs(moment(n, 2) - 1)).toBeLessThan(0.02);
    expect(Math.abs(moment(n, 3))).toBeLessThan(0.04);
    expect(Math.abs(moment(n, 4) - 3)).toBeLessThan(0.15);
    const within = (deviations: number) => mean(n.map(value => Number(Math.abs(value) < deviations)));
    expect(Math.abs(within(1) - 0.6826894921)).toBeLessThan(0.007);
    expect(Math.abs(within(2) - 0.9544997361)).toBeLessThan(0.003);
    // Neighbours, in a row and in a column, know nothing of each other.
    for (const distance of [1, 4, 100])
      expect(Math.abs(mean(n.subarray(distance).map((value, i) => value * n[i]!)))).toBeLessThan(0.015);
  });

  test('Gumbel noise draws experts from the softmax', () => {
    const [rows, shares] = [20_000, [0.5, 0.3, 0.15, 0.05]];
    const row = shares.map(Math.log);
    const logits = Array.from({ length: rows }, () => row).flat();
    const tensor = upload(logits, [rows, shares.length], 'float32', device);
    const { counts } = download(
      route({ logits: tensor, noise: { kind: 'gumbel', seed: 11 }, step: 0, topK: 1 }),
    );
    for (const [e, share] of shares.entries())
      expect(Math.abs(counts[e]! / rows - share)).toBeLessThan(0.014);
  });

  test('a sequence that is routed as one has one row of numbers', () => {
    const [sequences, length, columns] = [5, 6, 7];
    const rows = sequences * length;
    const logits = upload(zeros(rows * columns), [rows, columns], 'float32', device);
    const noise = { kind: 'gumbel', seed: 2 } as const;
    const by = { level: 'sequence', sequenceLength: length } as const;
    const { logits: found } = download(route({ logits, noise, step: 3, topK: 1, ...by }));
    const alone = drawn({ noise, step: 3, rows: sequences, columns }, device);
    for (let t = 0; t < rows; t++) {
      const own = Math.floor(t / length) * columns;
      expect([...found.subarray(t * columns, (t + 1) * columns)]).toEqual([
        ...alone.subarray(own, own + columns),
      ]);
    }
  });

  test('what the routing says of it', () => {
    const logits = upload(seeded(1).normals(12), [4, 3], 'float32', device);
    const noise = { kind: 'gumbel', scale: 2, anneal: { steps: 4 } } as const;
    const on = route({ logits, noise, step: 1, topK: 1 });
    expect(on.run).toMatchObject({ step: 1, noiseStrength: 1.5 });
    expect(on.logits).not.toBe(logits);
    const off = route({ logits, noise, topK: 1 });
    expect(off.run).toMatchObject({ step: undefined, noiseStrength: 0 });
    expect(off.logits).toBe(logits);
    free([on.indices, on.weights, on.counts, on.logits, off.indices, off.weights, off.counts]);
  });
});

describe.each(TARGETS)('noise in a layer on $device in $dtype', ({ dtype, device }) => {
  const SIZES = { tokens: 37, hidden: 21, intermediate: 9, experts: 6, topK: 2, bias: true };

  test('jitter leaves the input of the experts alone', () => {
    const router = { noise: { kind: 'jitter', eps: 0.4 }, step: 2 } as const;
    const args = uploadLayer(layerInputs({ ...SIZES, router }, dtype), device);
    const fused = moeForward(args);
    const routing = route({ x: args.x, ...args.router! });
    const { router: _, ...given } = args;
    const apart = moeForward({ ...given, routing });
    expectSameBytes('y', downloadBytes(apart.y), downloadBytes(fused.y));
    const calm = moeForward({ ...args, router: { ...args.router!, step: undefined } });
    const [indices, without] = [fused, calm].map(({ routing: of }) => [...of.weights.dataSync()]);
    expect(indices).not.toEqual(without);
    calm.y.dispose();
    free([routing, fused.routing, calm.routing]);
  });
});
