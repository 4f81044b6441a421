// Losses on the router against their definitions in float64, their gradients against central differences, and what keeps
// experts in use.

import { describe, expect, it } from 'vitest';
import {
  getThreads,
  route,
  routerLoss,
  routingStatistics,
  setThreads,
  tensor,
  updateSelectionBias,
} from '../../src/index.ts';
import { seeded } from '../support/random.ts';

const [T, E, K] = [300, 13, 3];
const logits = Float64Array.from(seeded(3).normals(T * E), z => 1.5 * Math.fround(z));
const SCORES = ['softmax', 'sigmoid', 'sqrtsoftplus'] as const;
type Score = (typeof SCORES)[number];

function shares(score: Score, z: Float64Array): number[] {
  const largest = Math.max(...z);
  const raw = Array.from(z, value => {
    if (score === 'softmax') return Math.exp(value - largest);
    return score === 'sigmoid' ? 1 / (1 + Math.exp(-value)) : Math.sqrt(Math.log1p(Math.exp(value)));
  });
  const sum = raw.reduce((a, b) => a + b);
  return raw.map(value => value / sum);
}

interface Options {
  loadBalance: number;
  z: number;
  mask?: Int32Array;
  sequenceLength?: number;
}

/** The definition, with the choice of experts fixed. */
function reference(
  score: Score,
  values: Float64Array,
  indices: ArrayLike<number>,
  options: Options,
): number[] {
  const { loadBalance, z, mask, sequenceLength = T } = options;
  const counted = (t: number) => mask === undefined || mask[t] !== 0;
  let balance = 0;
  let squares = 0;
  let tokensCounted = 0;
  for (let begin = 0; begin < T; begin += sequenceLength) {
    const f = new Float64Array(E);
    const mean = new Float64Array(E);
    let tokens = 0;
    for (let t = begin; t < begin + sequenceLength; t++) {
      if (!counted(t)) continue;
      tokens++;
      const row = values.subarray(t * E, (t + 1) * E);
      shares(score, row).forEach((p, e) => {
        mean[e]! += p;
      });
      for (let k = 0; k < K; k++) f[indices[t * K + k]!]!++;
      squares += Math.log(row.reduce((sum, value) => sum + Math.exp(value), 0)) ** 2;
    }
    tokensCounted += tokens;
    if (tokens === 0) continue;
    const product = f.reduce((sum, count, e) => sum + (count / (tokens * K)) * (mean[e]! / tokens), 0);
    balance += (loadBalance * E * product * sequenceLength) / T;
  }
  return [balance, tokensCounted === 0 ? 0 : (z * squares) / tokensCounted];
}

const MASK = Int32Array.from({ length: T }, (_, t) => (t % 7 === 0 || t >= 290 ? 0 : 1));
const CASES: [string, Options][] = [
  ['load balance', { loadBalance: 0.7, z: 0 }],
  ['z', { loadBalance: 0, z: 0.3 }],
  ['both, masked', { loadBalance: 0.7, z: 0.3, mask: MASK }],
  ['by sequence of 100', { loadBalance: 2, z: 0.1, sequenceLength: 100 }],
  ['by sequence of 10, one of them masked', { loadBalance: 2, z: 0.1, sequenceLength: 10, mask: MASK }],
  ['nothing counted', { loadBalance: 1, z: 1, mask: new Int32Array(T) }],
];

function run(score: Score, options: Options) {
  const routing = route({ logits: tensor(Float32Array.from(logits), [T, E]), topK: K, score });
  const mask = options.mask && tensor(options.mask, [T]);
  return { routing, ...routerLoss({ routing, ...options, mask }) };
}

describe.each(SCORES)('%s', score => {
  it.each(CASES)('%s: losses and gradient', async (_name, options) => {
    const { routing, losses, dLogits } = run(score, options);
    const indices = await routing.indices.data();
    const expected = reference(score, logits, indices, options);
    const got = await losses.data();
    expected.forEach((value, i) => {
      expect(Math.abs(got[i]! - value)).toBeLessThanOrEqual(2e-6 * Math.abs(value));
    });
    const gradient = await dLogits.data();
    let [error, norm] = [0, 0];
    for (let i = 0; i < T * E; i += 17) {
      const step = 1e-5;
      const at = (delta: number) => {
        const moved = logits.slice();
        moved[i]! += delta;
        return reference(score, moved, indices, options).reduce((a, b) => a + b);
      };
      const slope = (at(step) - at(-step)) / (2 * step);
      error += (gradient[i]! - slope) ** 2;
      norm += slope ** 2;
    }
    expect(Math.sqrt(error) <= 1e-4 * Math.sqrt(norm)).toBe(true);
    expect(gradient.some(Number.isNaN)).toBe(false);
  });
});

it('gives the same bits for any number of threads', async () => {
  const threads = getThreads();
  const bits: string[] = [];
  for (const count of [1, 2, 5]) {
    setThreads(count);
    const { losses, dLogits } = run('softmax', { loadBalance: 0.7, z: 0.3 });
    bits.push(Buffer.from((await losses.data()).buffer).toString('hex') + (await dLogits.data()).join());
  }
  setThreads(threads);
  expect(new Set(bits).size).toBe(1);
});

it('is alpha when all experts are used alike', async () => {
  const even = tensor(
    Float32Array.from({ length: 4 * 4 }, (_, i) => (i % 5 === 0 ? 40 : 0)),
    [4, 4],
  );
  const { losses } = routerLoss({ routing: route({ logits: even, topK: 1 }), loadBalance: 0.25 });
  expect((await losses.data())[0]).toBeCloseTo(0.25, 6);
});

it.each([
  [{ sequenceLength: 7 }, 'sequenceLength: expected a divisor of the 300 tokens, got 7'],
  [{ sequenceLength: 0 }, 'sequenceLength: expected an integer from 1 to 2147483647, got 0'],
  [{ loadBalance: Number.NaN }, 'loadBalance: expected a finite number, got NaN'],
  [{ z: '1' }, 'z: expected a finite number, got "1"'],
  [{ balance: 1 }, /^args: expected only the keys routing, .*, got "balance"$/],
])('refuses %j', (change, sentence) => {
  const routing = route({ logits: tensor(Float32Array.from(logits), [T, E]), topK: K });
  expect(() => routerLoss({ routing, ...(change as object) })).toThrow(sentence);
});

it('moves the selection bias towards the mean', async () => {
  const selectionBias = tensor([0.5, 0.5, 0.5, 0.5], [4]);
  const counts = tensor(Int32Array.of(10, 2, 4, 0), [4]);
  updateSelectionBias({ selectionBias, counts, rate: 0.125 });
  expect([...(await selectionBias.data())]).toEqual([0.375, 0.625, 0.5, 0.625]);
});

it('brings neglected experts into use', async () => {
  const random = seeded(5).normals(400 * 8);
  const z = tensor(
    Float32Array.from(random, (value, i) => value + (i % 8 === 0 ? 4 : 0)),
    [400, 8],
  );
  const selectionBias = tensor(new Float32Array(8), [8]);
  const violation: number[] = [];
  for (let step = 0; step < 150; step++) {
    const routing = route({ logits: z, topK: 2, score: 'sigmoid', selectionBias });
    violation.push((await routingStatistics(routing)).maxViolation);
    updateSelectionBias({ selectionBias, counts: routing.counts, rate: 0.01 });
  }
  expect(violation[0]!).toBeGreaterThan(2);
  expect(violation.at(-1)!).toBeLessThan(0.2);
});

it('counts, shares and drops', async () => {
  const z = tensor(Float32Array.of(3, 0, 0, 2, 1, 0, 5, 0, 1), [3, 3]);
  const routing = route({ logits: z, topK: 1, capacity: { tokensPerExpert: 2 } });
  expect(await routingStatistics(routing)).toEqual({
    counts: Int32Array.of(3, 0, 0),
    shares: Float64Array.of(1, 0, 0),
    maxViolation: 2,
    squaredVariation: 2,
    dropped: 1,
  });
});
