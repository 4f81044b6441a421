// Experts that choose their tokens: exactly as many as there is room for, of largest weight, and Mixture-of-Depths upon it.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { dispatch, moeForward, type RouteArgs, route, routeBackward } from '../../src/index.ts';
import { runsOf } from '../reference/router.ts';
import { layerInputs, uploadLayer } from '../support/layer.ts';
import { seeded } from '../support/random.ts';
import { DEVICES, TARGETS } from '../support/targets.ts';
import { download, free, upload } from '../support/tensors.ts';

// Fixed, so that a failure repeats.
fc.configureGlobal({ seed: 20_17, numRuns: 150 });

const anyChoice = fc.record({
  experts: fc.integer({ min: 1, max: 7 }),
  sequences: fc.integer({ min: 1, max: 4 }),
  length: fc.integer({ min: 1, max: 11 }),
  per: fc.constantFrom('batch' as const, 'sequence' as const),
  room: fc.oneof(
    fc.record({ tokensPerExpert: fc.integer({ min: 1, max: 14 }) }),
    fc.record({ factor: fc.constantFrom(0.1, 0.5, 1, 1.5, 4) }),
  ),
  masked: fc.boolean(),
  seed: fc.nat(),
});

describe.each(DEVICES)('expert choice on %s', device => {
  test('every expert takes the tokens of largest weight of every run, ties to the earlier', () => {
    fc.assert(
      fc.property(anyChoice, ({ experts, sequences, length, per, room, masked, seed }) => {
        const tokens = sequences * length;
        const random = seeded(seed);
        const values = Array.from({ length: tokens * experts }, () => random.integer(9) / 4 - 1);
        const mask = Int32Array.from({ length: tokens }, () => Number(!masked || random.integer(3) > 0));
        const routing = route({
          ...{ score: 'sigmoid', expertChoice: { ...room, per } },
          logits: upload(values, [tokens, experts], 'float32', device),
          mask: masked ? upload(mask, [tokens], 'int32', device) : undefined,
          sequenceLength: per === 'sequence' ? length : undefined,
        });
        const { rows, tokensPerExpert } = routing.run;
        const { indices, weights, counts, dropped } = download(routing);
        const runLength = per === 'sequence' ? length : tokens;
        const { factor, tokensPerExpert: asked } = { factor: 0, tokensPerExpert: undefined, ...room };
        expect(tokensPerExpert).toBe(asked ?? Math.max(1, Math.ceil((factor * runLength) / experts)));
        expect([...indices]).toEqual(values.map((_, slot) => slot % experts));
        const taken = new Set<number>();
        for (const { begin, end } of runsOf(tokens, runLength)) {
          const candidates = Array.from({ length: end - begin }, (_, i) => begin + i).filter(t => mask[t]);
          for (let e = 0; e < experts; e++) {
            const logit = (t: number) => values[t * experts + e]!;
            const best = candidates
              .toSorted((a, b) => logit(b) - logit(a) || a - b)
              .slice(0, tokensPerExpert);
            for (const t of best) taken.add(t * experts + e);
          }
        }
        expect(taken.size).toBeLessThanOrEqual(rows);
        for (const [slot, logit] of values.entries()) {
          const fate = taken.has(slot) ? 0 : mask[Math.floor(slot / experts)] ? 1 : 2;
          expect(dropped![slot], `slot ${slot}`).toBe(fate);
          const weight = fate === 0 ? 1 / (1 + Math.exp(-logit)) : 0;
          expect(Math.abs(weights[slot]! - weight)).toBeLessThan(1e-6);
        }
        const chosen = [...taken].map(slot => slot % experts);
        expect([...counts]).toEqual(
          [...counts.keys()].map(e => chosen.filter(expert => expert === e).length),
        );
      }),
    );
  });

  test('as many rows for each expert, so that they are one block of experts', () => {
    const [tokens, experts, tokensPerExpert] = [24, 4, 5];
    const logits = upload(seeded(2).normals(tokens * experts), [tokens, experts], 'float32', device);
    const routing = route({ logits, expertChoice: { tokensPerExpert } });
    expect(routing.run.rows).toBe(experts * tokensPerExpert);
    const { indices, dropped } = routing;
    const plain = dispatch({ indices, dropped, experts, rows: routing.run.rows });
    const padded = dispatch({ indices, dropped, experts, rowsPerExpert: tokensPerExpert });
    expect(download(padded)).toEqual(download(plain));
    free(routing);
  });

  test('NaN weights are taken last, and none twice', () => {
    const values = [NaN, 0, NaN, 1, NaN, 2];
    const logits = upload(values, [6, 1], 'float32', device);
    const taken = (tokensPerExpert: number) => {
      const { dropped } = download(route({ logits, score: 'identity', expertChoice: { tokensPerExpert } }));
      return [...dropped!.keys()].filter(t => dropped![t] === 0);
    };
    expect([1, 2, 3, 4, 5, 6].map(taken)).toEqual([
      [5],
      [3, 5],
      [1, 3, 5],
      [0, 1, 3, 5],
      [0, 1, 2, 3, 5],
      [0, 1, 2, 3, 4, 5],
    ]);
  });

  test('nothing flows back through a token that was not taken', () => {
    const [tokens, experts] = [12, 3];
    const random = seeded(3);
    const logits = upload(random.normals(tokens * experts), [tokens, experts], 'float32', device);
    const routing = route({ logits, score: 'sigmoid', expertChoice: { tokensPerExpert: 4 } });
    const dWeights = upload(random.normals(tokens * experts), [tokens, experts], 'float32', device);
    const { dLogits } = download(routeBackward({ routing, dWeights }));
    const { dropped } = download(routing);
    expect([...dLogits].map(value => value !== 0)).toEqual([...dropped!].map(fate => fate === 0));
    expect(dropped!.filter(fate => fate === 0).length).toBe(experts * 4);
  });

  test('no token at all', () => {
    for (const expertChoice of [{ factor: 1 }, { tokensPerExpert: 3 }] as const) {
      const args: RouteArgs = { logits: upload([], [0, 4], 'float32', device), expertChoice };
      const routing = route(args);
      expect(routing.run.rows).toBe(0);
      expect(download(routing)).toMatchObject({ counts: new Float64Array(4), weights: new Float64Array() });
    }
  });
});

describe.each(TARGETS)('Mixture-of-Depths on $device in $dtype', ({ dtype, device }) => {
  test('the best tokens of every sequence are processed, times their logit; the rest come to nothing, or pass', () => {
    const [length, room] = [8, 3];
    const sizes = { tokens: 24, hidden: 11, intermediate: 6, experts: 1, topK: 1, bias: true };
    const outputs = (['zero', 'residual'] as const).map(dropped => {
      const expertChoice = { tokensPerExpert: room, per: 'sequence', dropped } as const;
      const layer = { ...sizes, router: { score: 'identity', expertChoice, sequences: true } } as const;
      const inputs = layerInputs(layer, dtype);
      const args = uploadLayer(inputs, device);
      const { y, routing } = moeForward({ ...args, router: { ...args.router!, sequenceLength: length } });
      return { inputs, y: download(y), ...download(routing as ReturnType<typeof route>) };
    });
    const [zero, residual] = outputs as [(typeof outputs)[0], (typeof outputs)[0]];
    const { logits, inputs } = zero;
    for (const { begin, end } of runsOf(sizes.tokens, length)) {
      const order = Array.from({ length: end - begin }, (_, i) => begin + i).sort(
        (a, b) => logits[b]! - logits[a]!,
      );
      for (const [rank, t] of order.entries()) {
        const row = (values: ArrayLike<number>) =>
          Array.from(values).slice(t * sizes.hidden, (t + 1) * sizes.hidden);
        if (rank < room) {
          expect(zero.weights[t]).toBe(logits[t]);
          expect(row(zero.y).every(value => value !== 0)).toBe(true);
          expect(row(residual.y)).toEqual(row(zero.y));
        } else {
          expect(row(zero.y)).toEqual(new Array(sizes.hidden).fill(0));
          expect(row(residual.y)).toEqual(row(inputs.x));
        }
      }
    }
  });
});
