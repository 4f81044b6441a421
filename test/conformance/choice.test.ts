// Other ways to choose: as many experts as reach a probability, one choice for a sequence, given experts, all of them.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type RouterOptions, route, routeBackward, synchronize } from '../../src/index.ts';
import { softmax } from '../reference/score.ts';
import { expectClose } from '../support/compare.ts';
import { ROUTING_BOUND } from '../support/expect-route.ts';
import { seeded } from '../support/random.ts';
import { DEVICES } from '../support/targets.ts';
import { download, free, upload } from '../support/tensors.ts';

// Fixed, so that a failure repeats.
fc.configureGlobal({ seed: 20_17, numRuns: 150 });

const sizes = fc.record({
  tokens: fc.nat(15),
  experts: fc.integer({ min: 1, max: 20 }),
  share: fc.double({ min: 0, max: 0.999, noNaN: true }),
  seed: fc.nat(),
});

describe.each(DEVICES)('choice on %s', device => {
  const floats = (values: ArrayLike<number>, ...shape: number[]) => upload(values, shape, 'float32', device);

  test('top-p takes the fewest of the K best that reach p, and all where they do not', () => {
    const problem = fc.tuple(sizes, fc.double({ min: 0.01, max: 0.99, noNaN: true }), fc.boolean());
    fc.assert(
      fc.property(problem, ([{ tokens, experts, share, seed }, topP, normalize]) => {
        const topK = 1 + Math.floor(share * experts);
        const values = seeded(seed).normals(tokens * experts, 2);
        const options = { topK, normalize, logits: floats(values, tokens, experts) };
        const all = download(route(options));
        const { indices, weights, counts, dropped } = download(route({ ...options, topP }));
        expect(indices).toEqual(all.indices);
        let taken = 0;
        for (let t = 0; t < tokens; t++) {
          const p = softmax(Float64Array.from(values.subarray(t * experts, (t + 1) * experts)));
          const own = [...indices.subarray(t * topK, (t + 1) * topK)].map(expert => p[expert]!);
          const fates = [...dropped!.subarray(t * topK, (t + 1) * topK)];
          const count = fates.filter(fate => fate === 0).length;
          expect(fates).toEqual(own.map((_, k) => (k < count ? 0 : 2)));
          const sum = (of: number[]) => of.reduce((a, b) => a + b, 0);
          expect(count).toBeGreaterThanOrEqual(1);
          if (count < topK) expect(sum(own.slice(0, count))).toBeGreaterThan(topP - 1e-6);
          if (count > 1) expect(sum(own.slice(0, count - 1))).toBeLessThan(topP + 1e-6);
          const found = weights.subarray(t * topK, t * topK + count);
          if (normalize) expect(Math.abs(sum([...found]) - 1)).toBeLessThan(1e-6);
          else expect([...found]).toEqual([...all.weights.subarray(t * topK, t * topK + count)]);
          expect(weights.subarray(t * topK + count, (t + 1) * topK).every(weight => weight === 0)).toBe(true);
          taken += count;
        }
        expect(counts.reduce((a, b) => a + b, 0)).toBe(taken);
      }),
    );
  });

  test('p = 1 takes all that have a share, a tiny p one', () => {
    const logits = floats([3, 1, -200, 2, 0, 0, 0, 0], 2, 4);
    const fates = (topP: number) => [...download(route({ logits, topK: 4, topP })).dropped!];
    expect(fates(1e-30)).toEqual([0, 2, 2, 2, 0, 2, 2, 2]);
    expect(fates(1).slice(0, 3)).toEqual([0, 0, 0]);
    expect(fates(1).slice(4)).toEqual([0, 0, 0, 0]);
    expect(fates(0.5).slice(4)).toEqual([0, 0, 2, 2]);
  });

  test('all tokens of a sequence go to the experts of its mean, whatever masked tokens say', () => {
    fc.assert(
      fc.property(sizes, fc.integer({ min: 1, max: 6 }), ({ experts, share, seed }, length) => {
        const [topK, tokens] = [1 + Math.floor(share * experts), 3 * length];
        const random = seeded(seed);
        const values = random.normals(tokens * experts);
        const mask = Int32Array.from({ length: tokens }, () => Number(random.integer(4) > 0));
        const run = (of: Float32Array) =>
          download(
            route({
              ...{ logits: floats(of, tokens, experts), topK, level: 'sequence', sequenceLength: length },
              mask: upload(mask, [tokens], 'int32', device),
            }),
          );
        const found = run(values);
        for (let begin = 0; begin < tokens; begin += length) {
          const row = (of: Float64Array, t: number, width: number) => [
            ...of.subarray(t * width, (t + 1) * width),
          ];
          for (let t = begin; t < begin + length; t++) {
            expect(row(found.indices, t, topK)).toEqual(row(found.indices, begin, topK));
            expect(row(found.logits, t, experts)).toEqual(row(found.logits, begin, experts));
          }
        }
        for (const garbage of [100, NaN, Infinity]) {
          const padded = values.map((value, i) => (mask[Math.floor(i / experts)] ? value : value + garbage));
          expect(run(padded)).toEqual(found);
        }
      }),
    );
  });

  test('nothing comes of what a masked token holds, forward or backward', () => {
    const [tokens, experts, topK] = [9, 5, 2];
    const random = seeded(9);
    const values = random.normals(tokens * experts);
    const mask = upload(
      Int32Array.from({ length: tokens }, (_, t) => t % 3),
      [tokens],
      'int32',
      device,
    );
    const dWeights = floats(random.normals(tokens * topK), tokens, topK);
    for (const garbage of [7, NaN, Infinity, -Infinity]) {
      const padded = values.map((value, i) => (Math.floor(i / experts) % 3 ? value : garbage));
      const routing = route({ logits: floats(padded, tokens, experts), topK, normalize: true, mask });
      const { dLogits } = download(routeBackward({ routing, dWeights }));
      const { weights, dropped, counts } = download(routing);
      expect(counts.reduce((a, b) => a + b, 0)).toBe(6 * topK);
      for (let t = 0; t < tokens; t += 3) {
        const own = (of: Float64Array, width: number) => [...of.subarray(t * width, (t + 1) * width)];
        expect(own(dropped!, topK), `${garbage}`).toEqual([2, 2]);
        expect(own(weights, topK), `${garbage}`).toEqual([0, 0]);
        expect(own(dLogits, experts), `${garbage}`).toEqual(new Array(experts).fill(0));
      }
    }
  });

  test('a sequence of one token is that token; one of all, its mean', () => {
    const [tokens, experts] = [6, 5];
    const values = seeded(5).normals(tokens * experts);
    const options = { logits: floats(values, tokens, experts), topK: 2, level: 'sequence' } as const;
    expect(download(route({ ...options, sequenceLength: 1 })).logits).toEqual(Float64Array.from(values));
    const { logits } = download(route({ ...options, sequenceLength: tokens }));
    const mean = logits.map((_, i) => {
      const column = Array.from({ length: tokens }, (_, t) => values[t * experts + (i % experts)]!);
      return column.reduce((a, b) => a + b, 0) / tokens;
    });
    expectClose('mean', logits, mean, ROUTING_BOUND);
  });

  const SCORES: Omit<RouterOptions, 'topK'>[] = [
    {},
    { softmaxOver: 'selected' },
    { score: 'sigmoid', normalize: true },
    { score: 'sqrtsoftplus', scale: 2 },
    { score: 'identity' },
  ];
  test.each(SCORES)('given experts have the weights that choosing them gives: %o', options => {
    const [tokens, experts, topK] = [19, 7, 3];
    const random = seeded(6);
    const logits = floats(random.normals(tokens * experts), tokens, experts);
    const dWeights = floats(random.normals(tokens * topK), tokens, topK);
    const run = (indices?: ReturnType<typeof floats>) => {
      const routing = route({ ...options, logits, topK, ...(indices && { indices }) });
      const { dLogits } = download(routeBackward({ routing, dWeights }));
      return { routing, dLogits };
    };
    const best = run();
    const again = run(best.routing.indices);
    expect(again.dLogits).toEqual(best.dLogits);
    const [first, second] = [best, again].map(({ routing: { indices, weights, counts } }) =>
      [indices, weights, counts].map(tensor => [...tensor.dataSync()]),
    );
    expect(second).toEqual(first);
    free([best.routing, again.routing]);
  });

  test('an expert may be given twice to a token, but not one that does not exist', () => {
    const logits = floats([1, 2, 3, 4, 5, 6], 2, 3);
    const indices = (...ids: number[]) => upload(ids, [2, 2], 'int32', device);
    const { weights, counts } = download(route({ logits, topK: 2, indices: indices(1, 1, 2, 0) }));
    expect(weights[0]).toBe(weights[1]);
    expect([...counts]).toEqual([1, 2, 1]);
    for (const bad of [3, -1]) {
      const routing = route({ logits, topK: 2, indices: indices(0, 1, 2, bad) });
      expect(() => synchronize(device)).toThrow(expect.objectContaining({ code: 'ERR_INDEX_RANGE' }));
      free(routing);
    }
  });

  test('the soft mixture is every expert by its share', () => {
    const [tokens, experts] = [9, 6];
    const values = seeded(7).normals(tokens * experts);
    const { indices, weights } = download(route({ logits: floats(values, tokens, experts), topK: experts }));
    const shares = new Float64Array(values.length);
    for (const [slot, expert] of indices.entries())
      shares[Math.floor(slot / experts) * experts + expert] = weights[slot]!;
    for (let t = 0; t < tokens; t++) {
      const row = (of: ArrayLike<number>) => Float64Array.from(of).subarray(t * experts, (t + 1) * experts);
      expectClose(`token ${t}`, row(shares), softmax(row(values)), ROUTING_BOUND);
    }
  });
});
