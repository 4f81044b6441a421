// Dispatch and combine against the reference: permutations and gathered rows exactly, sums by the rule for low precision.

import { describe, expect, test } from 'vitest';
import { dispatch, permute, permuteBackward, unpermute, unpermuteBackward } from '../../src/index.ts';
import {
  referenceDispatch,
  referencePermute,
  referenceUnpermute,
  referenceWeightGradient,
} from '../reference/dispatch.ts';
import { expectTwicePlain } from '../support/compare.ts';
import { plainPrecision, representable } from '../support/dtypes.ts';
import { type Random, seeded } from '../support/random.ts';
import { TARGETS } from '../support/targets.ts';
import { download, free, upload } from '../support/tensors.ts';

interface PermuteCase {
  name: string;
  tokens: number;
  topK: number;
  experts: number;
  hidden: number;
  choose?: (random: Random, k: number) => number;
  /** Chosen too, beside `experts`. */
  identityExperts?: number;
  /** The share of the slots that is dropped. */
  dropped?: number;
}

const CASES: PermuteCase[] = [
  { name: 'odd sizes', tokens: 37, topK: 3, experts: 7, hidden: 19 },
  { name: 'no token', tokens: 0, topK: 2, experts: 4, hidden: 8 },
  { name: 'one token', tokens: 1, topK: 2, experts: 4, hidden: 33 },
  { name: 'one expert', tokens: 29, topK: 1, experts: 1, hidden: 16 },
  { name: 'every expert', tokens: 21, topK: 5, experts: 5, hidden: 17, choose: (_, k) => 4 - k },
  { name: 'all tokens on the last expert', tokens: 70, topK: 1, experts: 9, hidden: 5, choose: () => 8 },
  { name: 'one expert chosen twice by a token', tokens: 11, topK: 2, experts: 3, hidden: 6, choose: () => 1 },
  {
    name: 'one hot expert',
    tokens: 90,
    topK: 2,
    experts: 16,
    hidden: 9,
    choose: (r, k) => (k ? 3 : r.integer(16)),
  },
  { name: 'many tokens', tokens: 2500, topK: 2, experts: 5, hidden: 3 },
  { name: 'more experts than rows', tokens: 3, topK: 2, experts: 300, hidden: 65 },
  { name: 'identity experts', tokens: 41, topK: 3, experts: 4, hidden: 19, identityExperts: 2 },
  {
    name: 'nearly all of them identity experts',
    tokens: 41,
    topK: 2,
    experts: 1,
    hidden: 8,
    identityExperts: 30,
  },
  { name: 'dropped slots', tokens: 57, topK: 2, experts: 5, hidden: 18, dropped: 0.4 },
  { name: 'every slot dropped', tokens: 13, topK: 2, experts: 5, hidden: 18, dropped: 1 },
  { name: 'both', tokens: 2500, topK: 2, experts: 5, hidden: 3, identityExperts: 3, dropped: 0.2 },
  { name: 'no token, both', tokens: 0, topK: 2, experts: 5, hidden: 3, identityExperts: 3, dropped: 0.2 },
  { name: 'wide rows', tokens: 5, topK: 2, experts: 3, hidden: 1027 },
  ...[1, 2, 3, 7, 8, 15, 31, 32, 64].map(hidden => ({
    name: `${hidden} columns`,
    tokens: 6,
    topK: 2,
    experts: 3,
    hidden,
  })),
];

describe.each(TARGETS)('dispatch and combine on $device in $dtype', ({ dtype, device }) => {
  const precision = plainPrecision(dtype);

  test.each(CASES)('$name', ({ tokens, topK, experts, hidden, choose, identityExperts, dropped: share }) => {
    const random = seeded(tokens + hidden);
    const slots = Array.from({ length: tokens * topK }, (_, slot) => slot % topK);
    const ids = experts + (identityExperts ?? 0);
    const indices = Int32Array.from(slots, k => choose?.(random, k) ?? random.integer(ids));
    const drops =
      share === undefined ? undefined : indices.map(e => Number(e < experts && random.uniform() < share));
    const expected = referenceDispatch(indices, topK, experts, drops);
    const values = (count: number) => representable(dtype, random.normals(count));
    const x = values(tokens * hidden);
    const weights = random.normals(tokens * topK);
    const indicesTensor = upload(indices, [tokens, topK], 'int32', device);
    const weightsTensor = upload(weights, [tokens, topK], 'float32', device);

    const dropped = drops && upload(drops, [tokens, topK], 'int32', device);
    const choice = { indices: indicesTensor, experts, identityExperts, dropped };
    const permuted = permute({ x: upload(x, [tokens, hidden], dtype, device), ...choice });
    expect(download(permuted.rows)).toEqual(referencePermute(Float64Array.from(x), expected, hidden));
    const alone = download(dispatch(choice));
    for (const part of ['offsets', 'rowSlot', 'slotRow'] as const) {
      expect(alone[part], part).toEqual(Float64Array.from(expected[part]));
      expect(Float64Array.from(permuted.dispatch[part].dataSync()), part).toEqual(alone[part]);
    }

    const rows = values(tokens * topK * hidden);
    const rowsTensor = upload(rows, [tokens * topK, hidden], dtype, device);
    const wideRows = Float64Array.from(rows);
    for (const weighted of [false, true]) {
      const given = weighted ? weightsTensor : undefined;
      const y = download(unpermute({ rows: rowsTensor, dispatch: permuted.dispatch, weights: given }));
      const args = [wideRows, expected, hidden, weighted ? Float64Array.from(weights) : undefined] as const;
      const plain = referenceUnpermute(...args, precision);
      expectTwicePlain(weighted ? 'weighted y' : 'y', dtype, y, referenceUnpermute(...args), plain);
      if (weighted) continue;
      const dx = download(permuteBackward({ dRows: rowsTensor, dispatch: permuted.dispatch }));
      expect(dx).toEqual(y);
    }

    const dy = values(tokens * hidden);
    const dyTensor = upload(dy, [tokens, hidden], dtype, device);
    const args = { dy: dyTensor, dispatch: permuted.dispatch };
    const backward = download(unpermuteBackward({ ...args, rows: rowsTensor, weights: weightsTensor }));
    const forward = [Float64Array.from(dy), expected, hidden, Float64Array.from(weights)] as const;
    const plainRows = referencePermute(...forward, precision);
    expectTwicePlain('dRows', dtype, backward.dRows, referencePermute(...forward), plainRows);
    const gradient = [wideRows, expected, hidden, Float64Array.from(dy)] as const;
    const exact = referenceWeightGradient(...gradient);
    const plain = referenceWeightGradient(...gradient, precision);
    expectTwicePlain('dWeights', 'float32', backward.dWeights!, exact, plain);
    const unweighted = download(unpermuteBackward(args));
    expect(unweighted.dRows).toEqual(referencePermute(Float64Array.from(dy), expected, hidden));
    expect(unweighted.dWeights).toBeUndefined();
    free(permuted.dispatch);
  });
});
