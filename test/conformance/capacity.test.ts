// What capacity promises for every routing: no expert above it, the right tokens first, nothing of what is dropped, or the
// token itself.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  dispatch,
  moeBackward,
  moeForward,
  type RouterCapacity,
  route,
  routeBackward,
} from '../../src/index.ts';
import { rowsPerExpert } from '../reference/capacity.ts';
import { referenceRoute } from '../reference/route.ts';
import { runsOf } from '../reference/router.ts';
import { layerInputs, uploadLayer } from '../support/layer.ts';
import { seeded } from '../support/random.ts';
import { DEVICES } from '../support/targets.ts';
import { download, free, upload } from '../support/tensors.ts';

// Fixed, so that a failure repeats.
fc.configureGlobal({ seed: 20_17, numRuns: 150 });

const problem = fc
  .record({
    tokens: fc.nat(30),
    experts: fc.integer({ min: 1, max: 12 }),
    identityExperts: fc.nat(3),
    tokensPerExpert: fc.integer({ min: 1, max: 12 }),
  })
  .chain(sizes =>
    fc.record({
      tokens: fc.constant(sizes.tokens),
      experts: fc.constant(sizes.experts),
      identityExperts: fc.constant(sizes.identityExperts),
      tokensPerExpert: fc.constant(sizes.tokensPerExpert),
      topK: fc.integer({ min: 1, max: sizes.experts + sizes.identityExperts }),
      normalize: fc.boolean(),
      seed: fc.nat(),
    }),
  );

const anyCapacity = fc
  .record({ experts: fc.integer({ min: 1, max: 6 }), identityExperts: fc.nat(2) })
  .chain(({ experts, identityExperts }) =>
    fc.record({
      experts: fc.constant(experts),
      identityExperts: fc.constant(identityExperts),
      topK: fc.integer({ min: 1, max: experts + identityExperts }),
      sequences: fc.integer({ min: 1, max: 4 }),
      length: fc.integer({ min: 1, max: 9 }),
      masked: fc.boolean(),
      seed: fc.nat(),
      capacity: fc
        .record({
          room: fc.oneof(
            fc.record({ tokensPerExpert: fc.integer({ min: 1, max: 6 }) }),
            fc.record({ factor: fc.constantFrom(0.1, 0.25, 0.5, 1, 1.25, 3) }),
          ),
          per: fc.constantFrom('batch' as const, 'sequence' as const),
          dropPolicy: fc.constantFrom('position' as const, 'probability' as const),
          dropped: fc.constantFrom('zero' as const, 'residual' as const),
        })
        .map(({ room, ...rest }): RouterCapacity => ({ ...room, ...rest })),
    }),
  );

describe.each(DEVICES)('capacity on %s', device => {
  test('the first tokens of every expert stay, with the weights they have without it', () => {
    fc.assert(
      fc.property(problem, ({ tokens, experts, identityExperts, tokensPerExpert, topK, normalize, seed }) => {
        const width = experts + identityExperts;
        const values = seeded(seed).normals(tokens * width);
        const logits = upload(values, [tokens, width], 'float32', device);
        const options = { logits, topK, normalize, identityExperts };
        const unlimited = download(route(options));
        const { indices, weights, counts, dropped } = download(
          route({ ...options, capacity: { tokensPerExpert } }),
        );
        expect(indices).toEqual(unlimited.indices);
        expect(counts).toEqual(unlimited.counts);
        expect(unlimited.dropped).toBeUndefined();
        const taken = new Array<number>(width).fill(0);
        for (const [slot, expert] of indices.entries()) {
          const stays = expert >= experts || taken[expert]! < tokensPerExpert;
          expect(dropped![slot], `slot ${slot}`).toBe(stays ? 0 : 1);
          expect(weights[slot], `weight of slot ${slot}`).toBe(stays ? unlimited.weights[slot] : 0);
          if (stays) taken[expert]!++;
        }
        for (const count of taken.slice(0, experts)) expect(count).toBeLessThanOrEqual(tokensPerExpert);
      }),
    );
  });

  test('dropped slots and those of identity experts get no row', () => {
    fc.assert(
      fc.property(problem, ({ tokens, experts, identityExperts, tokensPerExpert, topK, seed }) => {
        const width = experts + identityExperts;
        const logits = upload(seeded(seed).normals(tokens * width), [tokens, width], 'float32', device);
        const routing = route({ logits, topK, identityExperts, capacity: { tokensPerExpert } });
        const permutation = dispatch({
          ...{ indices: routing.indices, dropped: routing.dropped },
          ...{ experts, identityExperts },
        });
        const { offsets, rowSlot, slotRow } = download(permutation);
        const { indices, dropped } = download(routing);
        const used = offsets[experts]!;
        expect(rowSlot.subarray(used)).toEqual(new Float64Array(tokens * topK - used).fill(-1));
        for (const [slot, row] of slotRow.entries()) {
          const expected = indices[slot]! >= experts ? -2 : dropped![slot] ? -1 : row;
          expect(row).toBe(expected);
          if (row >= 0) expect(rowSlot[row]).toBe(slot);
        }
        for (let e = 0; e < experts; e++) {
          const rows = offsets[e + 1]! - offsets[e]!;
          const chosen = indices.filter(expert => expert === e).length;
          expect(rows).toBe(Math.min(chosen, tokensPerExpert));
        }
      }),
    );
  });

  test.each([
    // factor, T, K, E, C
    [1, 10, 1, 5, 2],
    [1.25, 10, 2, 4, 7],
    [0.01, 10, 1, 5, 1],
    [1.1, 10, 1, 1, 11],
    [0.7, 30, 1, 3, 7],
    [2, 9, 3, 4, 14],
  ])('factor %d of %d tokens, top %d of %d experts: %d rows', (factor, tokens, topK, experts, rows) => {
    const logits = upload(new Float32Array(tokens * experts), [tokens, experts], 'float32', device);
    const routing = route({ logits, topK, capacity: { factor } });
    expect(routing.run.tokensPerExpert).toBe(rows);
    expect(routing.run.rows).toBe(Math.min(tokens * topK, experts * rows));
    const { dropped } = download(routing);
    // All tokens have the same K experts.
    expect(dropped!.filter(Boolean).length).toBe(topK * Math.max(0, tokens - rows));
  });

  test('in every run, as many as there is room for: the first, or those of largest weight', () => {
    fc.assert(
      fc.property(
        anyCapacity,
        ({ capacity, experts, identityExperts, topK, sequences, length, masked, seed }) => {
          const [width, tokens] = [experts + identityExperts, sequences * length];
          // Quarters, so that equal weights are common; a sigmoid of equal logits is equal to the bit.
          const random = seeded(seed);
          const values = Array.from({ length: tokens * width }, () => random.integer(9) / 4 - 1);
          const mask = Int32Array.from({ length: tokens }, () => Number(!masked || random.integer(3) > 0));
          const perSequence = capacity.per === 'sequence';
          const options = { topK, score: 'sigmoid' as const, identityExperts, capacity };
          const routing = route({
            ...options,
            logits: upload(values, [tokens, width], 'float32', device),
            mask: masked ? upload(mask, [tokens], 'int32', device) : undefined,
            sequenceLength: perSequence ? length : undefined,
          });
          const { rows, tokensPerExpert } = routing.run;
          const { indices, dropped, weights } = download(routing);
          const call = { ...(masked && { mask }), sequenceLength: length };
          const router = { ...options, ...call };
          const expected = referenceRoute(router, Float64Array.from(values), width);
          expect([...dropped!]).toEqual([...expected.dropped]);

          const runLength = perSequence ? length : tokens;
          expect(tokensPerExpert).toBe(rowsPerExpert(router, runLength, width));
          expect(
            dropped!.filter((fate, slot) => fate === 0 && indices[slot]! < experts).length,
          ).toBeLessThanOrEqual(rows);
          for (const { begin, end } of runsOf(tokens, runLength)) {
            for (let e = 0; e < experts; e++) {
              const own = [...indices.subarray(begin * topK, end * topK).entries()].filter(
                ([, id]) => id === e,
              );
              const fates = own.map(([slot]) => dropped![begin * topK + slot]!);
              const served = fates.filter(fate => fate === 0).length;
              expect(served).toBe(Math.min(tokensPerExpert!, fates.filter(fate => fate !== 2).length));
            }
          }
          for (const [slot, fate] of dropped!.entries()) {
            expect(fate === 2).toBe(mask[Math.floor(slot / topK)] === 0);
            if (fate !== 0) expect(weights[slot]).toBe(fate === 3 ? 1 : 0);
          }
        },
      ),
    );
  });

  test('NaN weights come last, ties go to the earlier slot', () => {
    const logits = upload([NaN, 1, 2, NaN, 2, 1], [6, 1], 'float32', device);
    const kept = (tokensPerExpert: number) => {
      const capacity = { tokensPerExpert, dropPolicy: 'probability' } as const;
      const { dropped } = download(route({ logits, topK: 1, score: 'identity', capacity }));
      return [...dropped!.entries()].filter(([, fate]) => fate === 0).map(([slot]) => slot);
    };
    expect([1, 2, 3, 4, 5, 6].map(kept)).toEqual([
      [2],
      [2, 4],
      [1, 2, 4],
      [1, 2, 4, 5],
      [0, 1, 2, 4, 5],
      [0, 1, 2, 3, 4, 5],
    ]);
  });

  test('masked tokens take no room: the others are routed as if they were not there', () => {
    const [tokens, experts, topK] = [40, 5, 2];
    const random = seeded(8);
    const values = random.normals(tokens * experts);
    const mask = Int32Array.from({ length: tokens }, (_, t) => (t % 4 === 1 || t < 3 ? 0 : 1));
    const kept = [...mask.keys()].filter(t => mask[t]);
    for (const dropPolicy of ['position', 'probability'] as const) {
      const options = { topK, normalize: true, capacity: { tokensPerExpert: 6, dropPolicy } };
      const run = (of: number[], masked: boolean) => {
        const rows = of.flatMap(t => [...values.subarray(t * experts, (t + 1) * experts)]);
        const logits = upload(rows, [of.length, experts], 'float32', device);
        const given = masked ? upload(mask, [tokens], 'int32', device) : undefined;
        return download(route({ ...options, logits, mask: given }));
      };
      const [all, alone] = [run([...mask.keys()], true), run(kept, false)];
      for (const key of ['indices', 'weights', 'dropped'] as const) {
        const own = kept.flatMap(t => [...all[key]!.subarray(t * topK, (t + 1) * topK)]);
        expect(own, key).toEqual([...alone[key]!]);
      }
      expect(all.counts).toEqual(alone.counts);
      const others = [...mask.keys()].filter(t => !mask[t]).flatMap(t => [t * topK, t * topK + 1]);
      for (const slot of others) expect([all.dropped![slot], all.weights[slot]]).toEqual([2, 0]);
    }
  });

  test('nothing flows back through a dropped slot', () => {
    const [tokens, experts] = [9, 4];
    const random = seeded(3);
    const logits = upload(random.normals(tokens * experts), [tokens, experts], 'float32', device);
    const routing = route({ logits, topK: 1, capacity: { tokensPerExpert: 1 } });
    const dWeights = upload(random.normals(tokens), [tokens, 1], 'float32', device);
    const { dLogits } = download(routeBackward({ routing, dWeights }));
    const { dropped } = download(routing);
    expect(dropped!.filter(Boolean).length).toBeGreaterThanOrEqual(tokens - experts);
    for (const [t, drop] of dropped!.entries()) {
      const row = dLogits.subarray(t * experts, (t + 1) * experts);
      expect(Math.hypot(...row) > 0, `token ${t}`).toBe(drop === 0);
    }
  });

  test('a token all of whose slots are dropped has no output, not even a bias', () => {
    const [tokens, hidden, intermediate] = [5, 3, 4];
    const random = seeded(4);
    const values = (...shape: number[]) =>
      upload(random.normals(shape.reduce((a, b) => a * b)), shape, 'float32', device);
    const { y, routing } = moeForward({
      x: values(tokens, hidden),
      router: { weight: values(1, hidden), topK: 1, capacity: { tokensPerExpert: 2 } },
      experts: {
        ...{ up: values(1, intermediate, hidden), upBias: values(1, intermediate) },
        ...{ down: values(1, hidden, intermediate), downBias: values(1, hidden) },
      },
      activation: 'relu',
    });
    free(routing);
    const found = download(y);
    expect(found.subarray(0, 2 * hidden).every(value => value !== 0)).toBe(true);
    expect(found.subarray(2 * hidden)).toEqual(new Float64Array(3 * hidden));
  });

  test('a token that no expert has room for passes as it is, and its gradient with it', () => {
    const sizes = { tokens: 40, hidden: 9, intermediate: 5, experts: 3, topK: 2, bias: true };
    const capacity = { tokensPerExpert: 4, dropped: 'residual' } as const;
    const inputs = layerInputs({ ...sizes, router: { capacity, masked: true } }, 'float32');
    const forward = moeForward({ ...uploadLayer(inputs, device), save: 'activations' });
    const dy = upload(inputs.dy, [sizes.tokens, sizes.hidden], 'float32', device);
    const backward = moeBackward({ dy, saved: forward.saved! });
    const [y, { dx }, { dropped }] = [forward.y, backward, forward.routing].map(download) as [
      Float64Array,
      { dx: Float64Array },
      { dropped: Float64Array },
    ];
    free(forward.saved!.block);
    const rowOf = (values: ArrayLike<number>, t: number) =>
      Array.from(values).slice(t * sizes.hidden, (t + 1) * sizes.hidden);
    const passing = [...inputs.call.mask!.keys()].filter(t => dropped[t * sizes.topK] === 3);
    expect(passing.length).toBeGreaterThan(10);
    for (const t of passing) {
      expect(rowOf(y, t), `y of token ${t}`).toEqual(rowOf(inputs.x, t));
      expect(rowOf(dx, t), `dx of token ${t}`).toEqual(rowOf(inputs.dy, t));
    }
    for (const [t, counted] of inputs.call.mask!.entries()) {
      if (counted) continue;
      expect([...rowOf(y, t), ...rowOf(dx, t)], `masked token ${t}`).toEqual(
        new Array(2 * sizes.hidden).fill(0),
      );
    }
  });
});
