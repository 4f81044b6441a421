// What must hold for every input, tried on random ones: small integers where exactness lets sums be compared exactly.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  dispatch,
  groupedMatmul,
  groupedMatmulDgrad,
  groupedMatmulWgrad,
  permute,
  permuteBackward,
  route,
  unpermute,
} from '../../src/index.ts';
import { referenceRoute } from '../reference/route.ts';
import { DEVICES } from '../support/targets.ts';
import { download, upload } from '../support/tensors.ts';

// Fixed, so that a failure repeats.
fc.configureGlobal({ seed: 20_17, numRuns: 150 });

const smallIntegers = (count: number) =>
  fc.array(fc.integer({ min: -8, max: 8 }), { minLength: count, maxLength: count });

/** Expert ids [T, K], not necessarily distinct. */
const routed = fc
  .record({
    tokens: fc.nat(40),
    topK: fc.integer({ min: 1, max: 4 }),
    experts: fc.integer({ min: 1, max: 20 }),
  })
  .chain(sizes => {
    const slots = sizes.tokens * sizes.topK;
    const indices = fc.array(fc.nat(sizes.experts - 1), { minLength: slots, maxLength: slots });
    return fc.record({ ...constants(sizes), indices });
  });

function constants<T extends object>(values: T): { [K in keyof T]: fc.Arbitrary<T[K]> } {
  const entries = Object.entries(values).map(([key, value]) => [key, fc.constant(value)]);
  return Object.fromEntries(entries) as { [K in keyof T]: fc.Arbitrary<T[K]> };
}

const inner = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Array.from({ length: a.length }, (_, i) => a[i]! * b[i]!).reduce((sum, value) => sum + value, 0);

describe.each(DEVICES)('properties on %s', device => {
  test('dispatch is a stable bijection, and offsets are the prefix sums of the counts', () => {
    fc.assert(
      fc.property(routed, ({ tokens, topK, experts, indices }) => {
        const tensor = upload(indices, [tokens, topK], 'int32', device);
        const { offsets, rowSlot, slotRow } = download(dispatch({ indices: tensor, experts }));
        expect([...rowSlot].sort((a, b) => a - b)).toEqual([...indices.keys()]);
        for (const [row, slot] of rowSlot.entries()) expect(slotRow[slot]).toBe(row);
        expect(offsets[0]).toBe(0);
        for (let e = 0; e < experts; e++) {
          const rows = [...rowSlot.subarray(offsets[e], offsets[e + 1])];
          expect(rows).toEqual([...indices.keys()].filter(slot => indices[slot] === e));
        }
      }),
    );
  });

  test('unpermute(permute(x)) = K·x', () => {
    const problem = routed.chain(r => fc.record({ ...constants(r), x: smallIntegers(r.tokens * 3) }));
    fc.assert(
      fc.property(problem, ({ tokens, topK, experts, indices, x }) => {
        const permuted = permute({
          x: upload(x, [tokens, 3], 'float32', device),
          indices: upload(indices, [tokens, topK], 'int32', device),
          experts,
        });
        const y = download(unpermute(permuted));
        download(permuted);
        expect([...y]).toEqual(x.map(value => topK * value + 0));
      }),
    );
  });

  test('permuteBackward is the adjoint of permute', () => {
    const problem = routed.chain(r =>
      fc.record({
        ...constants(r),
        x: smallIntegers(r.tokens * 2),
        dRows: smallIntegers(r.tokens * r.topK * 2),
      }),
    );
    fc.assert(
      fc.property(problem, ({ tokens, topK, experts, indices, x, dRows }) => {
        const permuted = permute({
          x: upload(x, [tokens, 2], 'float32', device),
          indices: upload(indices, [tokens, topK], 'int32', device),
          experts,
        });
        const gradient = upload(dRows, [tokens * topK, 2], 'float32', device);
        const dx = download(permuteBackward({ dRows: gradient, dispatch: permuted.dispatch }));
        const { rows } = download(permuted);
        expect(inner(rows, dRows)).toBe(inner(x, dx));
      }),
    );
  });

  test('dgrad and wgrad are the adjoints of the grouped matmul', () => {
    const problem = fc
      .record({
        counts: fc.array(fc.nat(9), { minLength: 1, maxLength: 5 }),
        width: fc.integer({ min: 1, max: 20 }),
        inner: fc.integer({ min: 1, max: 20 }),
      })
      .chain(sizes => {
        const rowCount = sizes.counts.reduce((a, b) => a + b, 0);
        return fc.record({
          ...constants({ ...sizes, rowCount }),
          rows: smallIntegers(rowCount * sizes.inner),
          weight: smallIntegers(sizes.counts.length * sizes.width * sizes.inner),
          dOut: smallIntegers(rowCount * sizes.width),
        });
      });
    fc.assert(
      fc.property(problem, ({ counts, width, inner: columns, rowCount, ...values }) => {
        let end = 0;
        const offsets = upload(
          [0, ...counts.map(count => (end += count))],
          [counts.length + 1],
          'int32',
          device,
        );
        const rows = upload(values.rows, [rowCount, columns], 'float32', device);
        const weight = upload(values.weight, [counts.length, width, columns], 'float32', device);
        const dOut = upload(values.dOut, [rowCount, width], 'float32', device);
        const { out } = download(groupedMatmul({ rows, weight, offsets }));
        const dRows = download(groupedMatmulDgrad({ dOut, weight, offsets }));
        const { dWeight } = download(groupedMatmulWgrad({ dOut, rows, offsets }));
        expect(inner(dRows, values.rows)).toBe(inner(out, values.dOut));
        expect(inner(dWeight, values.weight)).toBe(inner(out, values.dOut));
      }),
    );
  });

  test('routers choose K distinct experts in order, and normalised weights sum to one', () => {
    const problem = fc
      .record({ tokens: fc.nat(12), experts: fc.integer({ min: 1, max: 70 }), normalize: fc.boolean() })
      .chain(sizes => {
        const count = sizes.tokens * sizes.experts;
        // Quarters, so that ties are common.
        const logits = fc.array(
          fc.integer({ min: -20, max: 20 }).map(value => value / 4),
          { minLength: count, maxLength: count },
        );
        return fc.record({
          ...constants(sizes),
          topK: fc.integer({ min: 1, max: sizes.experts }),
          score: fc.constantFrom('softmax' as const, 'sigmoid' as const, 'sqrtsoftplus' as const),
          logits,
        });
      });
    fc.assert(
      fc.property(problem, ({ tokens, experts, topK, score, normalize, logits }) => {
        const tensor = upload(logits, [tokens, experts], 'float32', device);
        const { indices, weights, counts } = download(route({ logits: tensor, topK, score, normalize }));
        expect(counts.reduce((a, b) => a + b, 0)).toBe(tokens * topK);
        for (let t = 0; t < tokens; t++) {
          const chosen = [...indices.subarray(t * topK, (t + 1) * topK)];
          expect(new Set(chosen).size).toBe(topK);
          const logit = (expert: number) => logits[t * experts + expert]!;
          for (const [k, expert] of chosen.slice(1).entries()) {
            const before = chosen[k]!;
            expect(
              logit(before) > logit(expert) || (logit(before) === logit(expert) && before < expert),
            ).toBe(true);
          }
          const worst = logit(chosen.at(-1)!);
          for (let e = 0; e < experts; e++)
            if (!chosen.includes(e)) expect(logit(e)).toBeLessThanOrEqual(worst);
          const sum = weights.subarray(t * topK, (t + 1) * topK).reduce((a, b) => a + b, 0);
          if (normalize) expect(Math.abs(sum - 1)).toBeLessThan(1e-6);
          else if (score === 'softmax') expect(sum).toBeLessThan(1 + 1e-6);
        }
      }),
    );
  });

  test('groups and selection bias choose as their definition says, ties and all', () => {
    const problem = fc
      .record({
        tokens: fc.nat(8),
        count: fc.integer({ min: 1, max: 6 }),
        size: fc.integer({ min: 2, max: 9 }),
        score: fc.constantFrom('max' as const, 'top2sum' as const),
        maskValue: fc.constantFrom(0, Number.NEGATIVE_INFINITY),
      })
      .chain(sizes => {
        const experts = sizes.count * sizes.size;
        // Quarters, so that ties are common; a softmax over the selected ranks by the logits themselves.
        const quarters = (length: number) =>
          fc.array(
            fc.integer({ min: -12, max: 12 }).map(value => value / 4),
            { minLength: length, maxLength: length },
          );
        return fc.record({
          ...constants(sizes),
          logits: quarters(sizes.tokens * experts),
          bias: fc.option(quarters(experts), { nil: undefined }),
          top: fc.integer({ min: 1, max: sizes.count }),
          k: fc.double({ min: 0, max: 0.999, noNaN: true }),
        });
      });
    fc.assert(
      fc.property(problem, ({ tokens, count, size, score, maskValue, logits, bias, top, k }) => {
        const experts = count * size;
        const topK = 1 + Math.floor(k * top * size);
        const groups = { count, top, score, maskValue };
        const options = { topK, softmaxOver: 'selected' as const, groups };
        const { indices } = download(
          route({
            ...options,
            logits: upload(logits, [tokens, experts], 'float32', device),
            selectionBias: bias && upload(bias, [experts], 'float32', device),
          }),
        );
        const selectionBias = bias && Float64Array.from(bias);
        const router = { ...options, selectionBias };
        expect([...indices]).toEqual([...referenceRoute(router, Float64Array.from(logits), experts).indices]);
      }),
    );
  });
});
