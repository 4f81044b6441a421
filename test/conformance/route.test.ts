// The router against the reference: every option forward and backward, fused logits, and logits that are hard to rank.

import { describe, expect, test } from 'vitest';
import { type RouteArgs, route, routeBackward } from '../../src/index.ts';
import { chooseLargest } from '../reference/choice.ts';
import { referenceDgrad, referenceWgrad } from '../reference/grouped-matmul.ts';
import { referenceLogits, referenceRoute } from '../reference/route.ts';
import { expectClose, expectTwicePlain } from '../support/compare.ts';
import { type Float, plainPrecision, representable } from '../support/dtypes.ts';
import { expectRoute, ROUTING_BOUND } from '../support/expect-route.ts';
import { seeded } from '../support/random.ts';
import { optionsOf } from '../support/router-call.ts';
import { fits, ROUTERS, routerTitle } from '../support/routers.ts';
import { DEVICES, TARGETS } from '../support/targets.ts';
import { download, free, upload } from '../support/tensors.ts';

const SIZES = [
  { tokens: 33, experts: 7, topK: 3 },
  { tokens: 5, experts: 1, topK: 1 },
  { tokens: 9, experts: 6, topK: 6 },
  { tokens: 17, experts: 64, topK: 8 },
  { tokens: 7, experts: 131, topK: 5 },
  { tokens: 1, experts: 16, topK: 2 },
  { tokens: 0, experts: 4, topK: 2 },
  { tokens: 40, experts: 12, topK: 2 },
  { tokens: 9, experts: 6, topK: 2 },
  { tokens: 11, experts: 132, topK: 8 },
  { tokens: 1, experts: 96, topK: 2 },
  { tokens: 0, experts: 18, topK: 2 },
];

describe.each(DEVICES)('routing of given logits on %s', device => {
  const VARIANTS = ROUTERS.map(router => ({ router, title: routerTitle(router) }));

  test.each(VARIANTS)('$title', ({ router }) => {
    const sizes = SIZES.filter(size => fits(router, size));
    expect(sizes.length).toBeGreaterThanOrEqual(4);
    for (const size of sizes) expectRoute(router, size, device);
  });

  const COUPLED = VARIANTS.filter(
    ({ router: { capacity, expertChoice, noise, level } }) => capacity || expertChoice || noise || level,
  );
  test.each(COUPLED)('many tokens: $title', ({ router }) => {
    expectRoute(router, { tokens: 2100, experts: 6, topK: 2 }, device);
  });

  const ranked = (logits: number[], options: Omit<RouteArgs, 'x' | 'weight' | 'logits'>) => {
    const tensor = upload(logits, [1, logits.length], 'float32', device);
    return download(route({ ...options, logits: tensor }));
  };
  const SCORES = [{}, { softmaxOver: 'selected' }, { score: 'sigmoid' }, { score: 'sqrtsoftplus' }] as const;

  test.each(SCORES)('ties go to the lower id: %o', score => {
    const equal = new Array(40).fill(0.5);
    expect([...ranked(equal, { ...score, topK: 5 }).indices]).toEqual([0, 1, 2, 3, 4]);
    expect([...ranked([1, 2, 1, 2, 1, 2], { ...score, topK: 4 }).indices]).toEqual([1, 3, 5, 0]);
    expect([...ranked([0, -0, 0, -0, -1], { ...score, topK: 4 }).indices]).toEqual([0, 1, 2, 3]);
    expect([...ranked([-0, 0, -0, 0, -1], { ...score, topK: 4 }).indices]).toEqual([0, 1, 2, 3]);
  });

  test.each(SCORES)('NaN ranks below every number: %o', score => {
    const { indices } = ranked([NaN, -3, NaN, 4, -Infinity, NaN], { ...score, topK: 5 });
    expect([...indices]).toEqual([3, 1, 4, 0, 2]);
    const all = ranked(new Array(19).fill(NaN), { ...score, topK: 19 });
    expect([...all.indices]).toEqual([...all.indices.keys()]);
    expect(all.counts).toEqual(new Float64Array(19).fill(1));
  });

  test.each(SCORES)('large logits do not overflow: %o', score => {
    for (const size of [30, 100, 1e4, 1e30, 3e38]) {
      const logits = [-size, size / 2, size, 0, -size / 2];
      const expected = referenceRoute({ ...score, topK: 5 }, Float64Array.from(logits, Math.fround), 5);
      const { indices, weights } = ranked(logits, { ...score, topK: 5 });
      expect([...indices], `±${size}`).toEqual([...expected.indices]);
      expectClose(`weights of ±${size}`, weights, expected.weights, ROUTING_BOUND);
    }
  });

  test('mixed NaN, infinite and equal logits always give K distinct experts', () => {
    const random = seeded(77);
    const palette = [NaN, Infinity, -Infinity, 0, -0, 1, 3e38, -3e38];
    for (const score of SCORES) {
      for (const experts of [5, 16, 17, 70]) {
        const logits = Float64Array.from({ length: experts }, () => palette[random.integer(palette.length)]!);
        const topK = 1 + random.integer(experts);
        const { indices } = ranked([...logits], { ...score, topK });
        expect([...indices], `${logits}`).toEqual(chooseLargest(logits, topK));
      }
    }
  });

  const CHOOSY = ROUTERS.filter(
    ({ groups, selectionBias, score, topP, masked }) =>
      (groups || selectionBias || topP || score === 'sparsemixer') && !masked,
  );
  test.each(CHOOSY)('nor does any other router choose an expert twice, or none: %o', variant => {
    const random = seeded(78);
    const palette = [NaN, Infinity, -Infinity, 0, -0, 1, 3e38, -3e38];
    const call = variant.sequences && { sequenceLength: 1 };
    for (const experts of [6, 12, 18, 66, 132]) {
      const pick = () =>
        Float64Array.from({ length: experts }, () => palette[random.integer(palette.length)]!);
      const bias = variant.selectionBias && {
        selectionBias: upload(pick(), [experts], 'float32', device),
      };
      const options = { ...optionsOf(variant), ...call, ...bias, topK: 2 };
      const { indices, counts, dropped } = ranked([...pick()], options);
      expect(new Set(indices).size, `${indices}`).toBe(2);
      const untaken = dropped?.filter(fate => fate === 2).length ?? 0;
      expect(untaken).toBeLessThan(2);
      expect(counts.reduce((a, b) => a + b, 0)).toBe(2 - untaken);
    }
  });
});

const FUSED = [
  { tokens: 23, hidden: 19, experts: 5, topK: 2 },
  { tokens: 1, hidden: 1, experts: 1, topK: 1 },
  { tokens: 0, hidden: 8, experts: 4, topK: 2 },
  { tokens: 6, hidden: 1027, experts: 9, topK: 3 },
  { tokens: 200, hidden: 33, experts: 17, topK: 4 },
  { tokens: 3, hidden: 16, experts: 260, topK: 2 },
  ...[2, 3, 7, 8, 15, 17, 31, 64, 65, 513].map(hidden => ({ tokens: 5, hidden, experts: 12, topK: 2 })),
];

describe.each(TARGETS)('router on $device in $dtype', ({ dtype, device }) => {
  const stored = dtype === 'float32' ? (['float32'] as const) : ([dtype, 'float32'] as const);
  const cases = FUSED.flatMap(size =>
    stored.map(weightDType => ({ ...size, weightDType: weightDType as Float })),
  );

  test.each(cases)('x [$tokens, $hidden] to $experts experts, $weightDType weight', sizes => {
    const { tokens, hidden, experts, topK, weightDType } = sizes;
    const random = seeded(hidden + experts);
    const x = representable(dtype, random.normals(tokens * hidden));
    const weight = representable(weightDType, random.normals(experts * hidden, 1 / Math.sqrt(hidden)));
    const bias = representable(weightDType, random.normals(experts));
    const dWeights = random.normals(tokens * topK);
    const args = {
      x: upload(x, [tokens, hidden], dtype, device),
      weight: upload(weight, [experts, hidden], weightDType, device),
      bias: upload(bias, [experts], weightDType, device),
    };
    const routing = route({ ...args, topK, normalize: true });
    const dWeightsTensor = upload(dWeights, [tokens, topK], 'float32', device);
    const gradients = download(routeBackward({ ...args, routing, dWeights: dWeightsTensor }));
    const actual = download(routing);

    const single = plainPrecision('float32');
    const inputs = [
      Float64Array.from(x),
      Float64Array.from(weight),
      Float64Array.from(bias),
      hidden,
    ] as const;
    const logits = referenceLogits(...inputs);
    const plainLogits = referenceLogits(...inputs, single);
    expectTwicePlain('logits', 'float32', actual.logits, logits, plainLogits);
    const router = { topK, normalize: true };
    // From the logits that were found on, every choice is exact.
    expect(actual.indices).toEqual(Float64Array.from(referenceRoute(router, actual.logits, experts).indices));
    const exact = referenceRoute(router, logits, experts, actual.indices);
    const plain = referenceRoute(router, plainLogits, experts, actual.indices, single);
    expectTwicePlain('weights', 'float32', actual.weights, exact.weights, plain.weights);

    // From here on, given the gradient of the logits that was found: it is held against the reference above.
    const group = { offsets: [0, tokens], width: experts, inner: hidden };
    const dgrad = [gradients.dLogits, inputs[1], group] as const;
    expectTwicePlain(
      'dx',
      dtype,
      gradients.dx!,
      referenceDgrad(...dgrad),
      referenceDgrad(...dgrad, plainPrecision(dtype)),
    );
    const wgrad = [gradients.dLogits, inputs[0], group] as const;
    const expected = referenceWgrad(...wgrad);
    const plainGradients = referenceWgrad(...wgrad, plainPrecision(weightDType));
    expectTwicePlain('dWeight', weightDType, gradients.dWeight!, expected.dWeight, plainGradients.dWeight);
    expectTwicePlain('dBias', weightDType, gradients.dBias!, expected.dBias, plainGradients.dBias);
  });

  test.each(stored)('gradients added to given tensors, %s parameters', weightDType => {
    const { tokens, hidden, experts, topK } = FUSED[0]!;
    const random = seeded(3);
    const values = (of: Float, count: number) => representable(of, random.normals(count));
    const x = upload(values(dtype, tokens * hidden), [tokens, hidden], dtype, device);
    const weight = upload(values(weightDType, experts * hidden), [experts, hidden], weightDType, device);
    const bias = upload(values(weightDType, experts), [experts], weightDType, device);
    const routing = route({ x, weight, bias, topK });
    const dWeights = upload(random.normals(tokens * topK), [tokens, topK], 'float32', device);
    const fresh = download(routeBackward({ routing, dWeights, x, weight, bias }));
    const before = {
      dx: values(dtype, tokens * hidden),
      weight: random.normals(experts * hidden),
      bias: random.normals(experts),
    };
    const into = {
      dx: upload(before.dx, [tokens, hidden], dtype, device),
      weight: upload(before.weight, [experts, hidden], 'float32', device),
      bias: upload(before.bias, [experts], 'float32', device),
    };
    const added = routeBackward({ routing, dWeights, x, weight, bias, accumulateInto: into });
    expect(added.dWeight).toBe(into.weight);
    const sums = download(added);
    for (const [name, key, of] of [
      ['dx', 'dx', dtype],
      ['dWeight', 'weight', weightDType],
      ['dBias', 'bias', weightDType],
    ] as const) {
      const expected = fresh[name]!.map((value, i) => value + before[key][i]!);
      // The fresh gradient was rounded to its own dtype first.
      expectClose(name, sums[name]!, expected, of === 'bfloat16' ? 8e-3 : of === 'float16' ? 1e-3 : 1e-6);
    }
    free(routing);
  });
});
