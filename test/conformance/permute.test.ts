// Dispatch and combine against the reference: permutations and gathered rows exactly, sums by the rule for low precision.

import { describe, expect, test } from 'vitest';
import { dispatch, permute, permuteBackward, unpermute, unpermuteBackward } from '../../src/index.ts';
import { OVER_CAPACITY, RESIDUAL, SERVED, UNTAKEN } from '../reference/capacity.ts';
import {
  referenceDispatch,
  referencePermute,
  referenceUnpermute,
  referenceWeightGradient,
} from '../reference/dispatch.ts';
import { referenceIdentity, referenceIdentityWeightGradient } from '../reference/identity.ts';
import { FLOAT64, type Precision, sum, unrounded } from '../reference/precision.ts';
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
  /** The share of the slots that is dropped: for want of capacity, untaken, or passing the residual. */
  dropped?: number;
  /** Only as many rows as are used, or as many for each expert as the busiest uses, and so many more. */
  room?: { spare: number; perExpert: boolean };
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
  ...[0, 3].flatMap(spare =>
    [false, true].map(perExpert => ({
      ...{ name: `rows as needed${perExpert ? ' by the busiest expert' : ''} and ${spare} more` },
      ...{ tokens: 57, topK: 3, experts: 6, hidden: 18, identityExperts: 2, dropped: 0.5 },
      room: { spare, perExpert },
    })),
  ),
  {
    ...{ name: 'no row', tokens: 5, topK: 2, experts: 3, hidden: 4, dropped: 1 },
    room: { spare: 0, perExpert: false },
  },
  {
    ...{ name: 'no token, rows for each expert', tokens: 0, topK: 2, experts: 3, hidden: 4 },
    room: { spare: 2, perExpert: true },
  },
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

  test.each(CASES)('$name', layout => {
    const { tokens, topK, experts, hidden, identityExperts } = layout;
    const random = seeded(tokens + hidden);
    const { indices, drops } = chooseSlots(layout, random);
    const room = roomOf(layout, indices, drops);
    const expected = referenceDispatch(indices, topK, experts, drops, room);
    const values = (count: number) => representable(dtype, random.normals(count));
    const x = values(tokens * hidden);
    const weights = random.normals(tokens * topK);
    const onTokens = (of: Float32Array) => upload(of, [tokens, hidden], dtype, device);
    const indicesTensor = upload(indices, [tokens, topK], 'int32', device);
    const weightsTensor = upload(weights, [tokens, topK], 'float32', device);
    const xTensor = onTokens(x);

    const dropped = drops && upload(drops, [tokens, topK], 'int32', device);
    const choice = { indices: indicesTensor, experts, identityExperts, dropped, ...room };
    const permuted = permute({ x: xTensor, ...choice });
    expect(download(permuted.rows)).toEqual(referencePermute(Float64Array.from(x), expected, hidden));
    const alone = download(dispatch(choice));
    for (const part of ['offsets', 'rowSlot', 'slotRow'] as const) {
      expect(alone[part], part).toEqual(Float64Array.from(expected[part]));
      expect(Float64Array.from(permuted.dispatch[part].dataSync()), part).toEqual(alone[part]);
    }

    const rowCount = expected.rowSlot.length;
    const rows = values(rowCount * hidden);
    const rowsTensor = upload(rows, [rowCount, hidden], dtype, device);
    const [wideX, wideRows] = [Float64Array.from(x), Float64Array.from(rows)];
    const args = { rows: rowsTensor, dispatch: permuted.dispatch };
    for (const weighted of [false, true]) {
      const given = weighted ? weightsTensor : undefined;
      const factors = Float64Array.from(weights, weight => (weighted ? weight : 1));
      const routed = (of: Precision) =>
        referenceUnpermute(wideRows, expected, hidden, weighted ? factors : undefined, of);
      const whole = (of: Precision) =>
        sum(of, routed(unrounded(of)), referenceIdentity(wideX, expected, hidden, factors, unrounded(of)));
      const title = weighted ? 'weighted y' : 'y';
      const y = download(unpermute({ ...args, weights: given }));
      expectTwicePlain(title, dtype, y, routed(FLOAT64), routed(precision));
      const withX = download(unpermute({ ...args, weights: given, x: xTensor }));
      expectTwicePlain(`${title} with x`, dtype, withX, whole(FLOAT64), whole(precision));
      if (weighted) continue;
      const dx = download(permuteBackward({ dRows: rowsTensor, dispatch: permuted.dispatch }));
      expect(dx).toEqual(y);
    }

    const dy = values(tokens * hidden);
    const backwardArgs = { dy: onTokens(dy), dispatch: permuted.dispatch };
    const weighed = { ...backwardArgs, rows: rowsTensor, weights: weightsTensor };
    const backward = download(unpermuteBackward(weighed));
    const wideDy = Float64Array.from(dy);
    const forward = [wideDy, expected, hidden, Float64Array.from(weights)] as const;
    const plainRows = referencePermute(...forward, precision);
    expectTwicePlain('dRows', dtype, backward.dRows, referencePermute(...forward), plainRows);
    const ofRows = (of: Precision) => referenceWeightGradient(wideRows, expected, hidden, wideDy, of);
    expectTwicePlain('dWeights', 'float32', backward.dWeights!, ofRows(FLOAT64), ofRows(precision));
    expect(backward.dx).toBeUndefined();
    const unweighted = download(unpermuteBackward(backwardArgs));
    expect(unweighted.dRows).toEqual(referencePermute(wideDy, expected, hidden));
    expect(unweighted.dWeights).toBeUndefined();

    const withX = download(unpermuteBackward({ ...weighed, x: xTensor }));
    expect(withX.dRows).toEqual(backward.dRows);
    const ofX = (of: Precision) =>
      sum(unrounded(of), ofRows(of), referenceIdentityWeightGradient(wideX, expected, hidden, wideDy, of));
    expectTwicePlain('dWeights with x', 'float32', withX.dWeights!, ofX(FLOAT64), ofX(precision));
    const dx = (of: Precision) => referenceIdentity(wideDy, expected, hidden, forward[3], of);
    expectTwicePlain('dx', dtype, withX.dx!, dx(FLOAT64), dx(precision));
    free(permuted.dispatch);
  });

  test('y is added to what is given', () => {
    const [tokens, topK, hidden, experts] = [9, 2, 7, 3];
    const random = seeded(1);
    const values = (count: number) => representable(dtype, random.normals(count));
    const x = upload(values(tokens * hidden), [tokens, hidden], dtype, device);
    const indices = upload(new Int32Array(tokens * topK).fill(1), [tokens, topK], 'int32', device);
    const permuted = permute({ x, indices, experts });
    const y = download(unpermute(permuted));
    const before = values(tokens * hidden);
    const into = upload(before, [tokens, hidden], dtype, device);
    const added = unpermute({ ...permuted, accumulateInto: into });
    expect(added).toBe(into);
    const { round } = precision;
    expect(download(added)).toEqual(y.map((value, i) => round(value + before[i]!)));
    free(permuted);
  });
});

/** Expert ids [T, K], and what becomes of each slot where some are dropped. */
function chooseSlots(
  { tokens, topK, experts, choose, identityExperts = 0, dropped: share }: PermuteCase,
  random: Random,
): { indices: Int32Array; drops: Int32Array | undefined } {
  const slots = Array.from({ length: tokens * topK }, (_, slot) => slot % topK);
  const indices = Int32Array.from(
    slots,
    k => choose?.(random, k) ?? random.integer(experts + identityExperts),
  );
  if (share === undefined) return { indices, drops: undefined };
  const fates = [OVER_CAPACITY, UNTAKEN, RESIDUAL];
  return {
    indices,
    drops: indices.map(() => (random.uniform() < share ? fates[random.integer(3)]! : SERVED)),
  };
}

function roomOf(
  { topK, experts, room }: PermuteCase,
  indices: Int32Array,
  drops: Int32Array | undefined,
): { rows?: number; rowsPerExpert?: number } {
  if (!room) return {};
  const { offsets } = referenceDispatch(indices, topK, experts, drops);
  if (!room.perExpert) return { rows: offsets[experts]! + room.spare };
  const most = Math.max(...offsets.subarray(1).map((end, e) => end - offsets[e]!));
  return { rowsPerExpert: most + room.spare };
}
