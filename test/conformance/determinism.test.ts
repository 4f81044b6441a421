// The same bits on every run, for every number of threads, and for a token whatever shares its batch.

import { afterEach, describe, expect, test } from 'vitest';
import { backendInfo, getThreads, groupedMatmul, setThreads } from '../../src/index.ts';
import { expectSameBytes } from '../support/compare.ts';
import { type LayerCase, type LayerInputs, layerInputs, logitsPerToken, runLayer } from '../support/layer.ts';
import { seeded } from '../support/random.ts';
import { DEVICES, DTYPES, TARGETS } from '../support/targets.ts';
import { downloadBytes, upload } from '../support/tensors.ts';

const LAYERS: LayerCase[] = [
  { name: 'odd sizes', tokens: 200, hidden: 65, intermediate: 70, experts: 5, topK: 2, bias: true },
  { name: 'long inner dimension up', tokens: 40, hidden: 1090, intermediate: 19, experts: 2, topK: 1 },
  { name: 'long inner dimension down', tokens: 40, hidden: 21, intermediate: 1090, experts: 2, topK: 1 },
  {
    ...{
      name: 'one hot expert',
      tokens: 200,
      hidden: 48,
      intermediate: 33,
      experts: 7,
      topK: 2,
      activation: 'geglu_tanh',
    },
    given: (t, k) => (k ? 4 : t % 4),
  },
  {
    ...{ name: 'groups, identity and shared experts', tokens: 200, hidden: 65, intermediate: 40, experts: 8 },
    ...{ topK: 3, identityExperts: 4, shared: { intermediate: 70, gate: 'sigmoid' }, bias: true },
    router: {
      ...{ score: 'sigmoid', selectionBias: true, expertScale: true, normalize: true },
      groups: { count: 4, top: 2, score: 'top2sum' },
    },
  },
  {
    ...{ name: 'weighted input, clamped', tokens: 200, hidden: 48, intermediate: 33, experts: 7, topK: 2 },
    ...{ applyWeightTo: 'input', activation: 'swiglu_clamped', activationLimit: 0.75 },
    router: { score: 'sparsemixer', jitterEps: 0.3 },
  },
  {
    ...{ name: 'top-p', tokens: 200, hidden: 33, intermediate: 20, experts: 9, topK: 4, bias: true },
    router: { topP: 0.6, normalize: true, expertScale: true },
  },
  {
    ...{ name: 'interleaved and transposed', tokens: 200, hidden: 65, intermediate: 70, experts: 5, topK: 2 },
    ...{ gateUpLayout: 'interleaved', transposed: true, bias: true },
  },
  {
    ...{ name: 'low-rank pairs', tokens: 200, hidden: 65, intermediate: 70, experts: 5, topK: 2, bias: true },
    ...{ lora: { gate_up: 17, down: 5 }, loraScale: 1.5 },
  },
  {
    ...{ name: 'transposed, gate and up apart, low-rank pairs', tokens: 120, experts: 3, topK: 2 },
    ...{ hidden: 530, intermediate: 48, separate: true, transposed: true },
    ...{ lora: { gate: 3, up: 70, down: 33 }, applyWeightTo: 'input' },
  },
  {
    ...{ name: 'several shared experts', tokens: 200, hidden: 48, intermediate: 33, experts: 7, topK: 2 },
    ...{ shared: { intermediate: 21, count: 3, gate: 'sigmoid' }, sharedWeights: true },
  },
];

/**
 * Capacity couples tokens: who is dropped depends on the others, as does whom an expert chooses; sequences share a choice; and a
 * token's noise is that of its place. So these are not among the batches below.
 */
const COUPLED: LayerCase[] = (
  [
    ['capacity', { normalize: true, expertScale: true, capacity: { tokensPerExpert: 70 } }],
    [
      'capacity by probability',
      { capacity: { factor: 0.8, dropPolicy: 'probability', dropped: 'residual' } },
    ],
    ['expert choice', { expertChoice: { factor: 1.5 }, score: 'sigmoid', expertScale: true }],
    ['sequences', { level: 'sequence', sequences: true, masked: true }],
    ['noisy top-k', { noise: { kind: 'noisyTopK', seed: 8 }, step: 5 }],
    ['jitter and a low-rank pair', { noise: { kind: 'jitter', eps: 0.3 }, step: 5, loraRank: 5 }],
  ] as const satisfies [string, LayerCase['router']][]
).map(([name, router]) => ({
  ...{ name, tokens: 200, hidden: 65, intermediate: 40, experts: 5, topK: 2 },
  ...('expertChoice' in router ? {} : { identityExperts: 1 }),
  router,
}));

const threads = getThreads();
afterEach(() => setThreads(threads));

/** The problem of these tokens alone, in this order. */
function takeTokens(inputs: LayerInputs, tokens: number[]): LayerInputs {
  const take = <T extends Float32Array | Int32Array>(values: T, width: number): T => {
    const rows = tokens.map(t => values.slice(t * width, (t + 1) * width));
    const out = values.slice(0, tokens.length * width);
    for (const [i, row] of rows.entries()) out.set(row, i * width);
    return out as T;
  };
  const { config, x, dy, dLogits, routing } = inputs;
  const { hidden, topK } = config;
  return {
    ...inputs,
    config: { ...config, tokens: tokens.length },
    x: take(x, hidden),
    dy: take(dy, hidden),
    dLogits: dLogits && take(dLogits, logitsPerToken(config)),
    routing: routing && { indices: take(routing.indices, topK), weights: take(routing.weights, topK) },
  };
}

test('runs on the instruction set that was asked for', () => {
  const wanted = process.env.MOE_KERNELS_ISA;
  const { instructionSet, instructionSets } = backendInfo();
  expect(instructionSet).toBe(wanted ?? instructionSets[0]);
});

describe.each(TARGETS)('bits on $device in $dtype', ({ dtype, device }) => {
  test.each([...LAYERS, ...COUPLED])('$name: every run', layer => {
    const inputs = layerInputs(layer, dtype);
    const first = downloadBytes(runLayer(inputs, { device }));
    for (let run = 1; run < 3; run++)
      expectSameBytes(`run ${run}`, downloadBytes(runLayer(inputs, { device })), first);
  });

  test.each(LAYERS)('$name: every batch', layer => {
    const inputs = layerInputs(layer, dtype);
    const { tokens, topK } = layer;
    const rowsOf = ({ y, dx, weights, dWeights, indices }: Record<string, Buffer>, t: number, of: number) =>
      Object.fromEntries(
        Object.entries({ y, dx, weights, dWeights, indices }).map(([name, bytes]) => {
          const size = bytes!.length / of;
          return [name, bytes!.subarray(t * size, (t + 1) * size)];
        }),
      );
    const run = (chosen: number[]) => {
      const {
        gradients: _,
        dLogits: __,
        ...perToken
      } = downloadBytes(runLayer(takeTokens(inputs, chosen), { device }));
      return perToken as Record<string, Buffer>;
    };
    const all = Array.from({ length: tokens }, (_, t) => t);
    const whole = run(all);
    const reversed = run(all.toReversed());
    for (const t of [0, Math.floor(tokens / 2), tokens - 1]) {
      const expected = rowsOf(whole, t, tokens);
      expectSameBytes(`token ${t} alone`, rowsOf(run([t]), 0, 1), expected);
      const seven = [1, 8, 15, 22, 29, 36].map(step => (t + step) % tokens);
      expectSameBytes(`token ${t} among seven`, rowsOf(run([...seven, t]), 6, 7), expected);
      expectSameBytes(`token ${t} elsewhere`, rowsOf(reversed, tokens - 1 - t, tokens), expected);
    }
    expect(whole.indices!.length).toBe(4 * tokens * topK);
  });

  test('a row of a grouped matmul, whatever its group holds', () => {
    const [width, inner, rows] = [37, 1100, 180];
    const random = seeded(8);
    const values = random.normals(rows * inner);
    const weight = upload(random.normals(width * inner), [1, width, inner], dtype, device);
    const run = (from: number, count: number) => {
      const part = values.subarray(from * inner, (from + count) * inner);
      const offsets = upload([0, count], [2], 'int32', device);
      return downloadBytes(
        groupedMatmul({ rows: upload(part, [count, inner], dtype, device), weight, offsets }),
      ).out;
    };
    const whole = run(0, rows);
    const size = whole.length / rows;
    for (const [from, count] of [
      ...[1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 16, 28, 32, 33].map(n => [171 - n, n] as const),
      [5, 170] as const,
    ]) {
      expectSameBytes(`${count} rows`, run(from, count), whole.subarray(from * size, (from + count) * size));
    }
  });
});

// Threads are of the CPU alone.
describe.each(DEVICES.includes('cpu') ? DTYPES : [])('bits on the CPU in %s', dtype => {
  test.each([...LAYERS, ...COUPLED])('$name: every number of threads', layer => {
    const inputs = layerInputs(layer, dtype);
    setThreads(1);
    const first = downloadBytes(runLayer(inputs));
    for (const count of [2, 3, 5]) {
      setThreads(count);
      expect(getThreads()).toBe(count);
      expectSameBytes(`${count} threads`, downloadBytes(runLayer(inputs)), first);
    }
  });
});
