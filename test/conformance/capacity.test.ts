// What capacity promises for every routing: no expert above it, earlier tokens first, nothing of what is dropped.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { dispatch, moeForward, route, routeBackward } from '../../src/index.ts';
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
});
