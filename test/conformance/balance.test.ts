// Losses on the router, their gradients and its entropy against their definitions in float64, and what keeps experts in use.

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
import { type LossOptions, referenceLosses } from '../reference/losses.ts';
import { expectClose } from '../support/compare.ts';
import { LOSSES, lossesOf } from '../support/loss-cases.ts';
import { seeded } from '../support/random.ts';
import { callInputs, optionsOf } from '../support/router-call.ts';
import { type RouterVariant, routerTitle, WATCHED_ROUTERS } from '../support/routers.ts';
import { DEVICES } from '../support/targets.ts';
import { download, upload } from '../support/tensors.ts';

const [T, E] = [300, 13];
const slotsOf = ({ score }: RouterVariant) => (score === 'sparsemixer' ? 2 : 3);
const logits = seeded(3).normals(T * E, 1.5);

/** Sums of float32 terms, divided by each other; gradients are differences of such. */
const VALUE_BOUND = 4e-6;
const GRADIENT_BOUND = 1e-5;

function run(variant: RouterVariant, options: LossOptions, device: 'cpu' | string) {
  const random = seeded(7);
  const router = optionsOf(variant);
  const K = slotsOf(variant);
  const inputs = callInputs(variant, { tokens: T, topK: K, width: E });
  const floats = (values: Float32Array, ...shape: number[]) =>
    upload(values, shape, 'float32', device as 'cpu');
  const ints = (values: ArrayLike<number>, ...shape: number[]) =>
    upload(values, shape, 'int32', device as 'cpu');
  const expertScale = random.normals(E, 0.3).map(value => 1 + value);
  const noiseLogits = random.normals(T * E);
  const scale = variant.expertScale && floats(expertScale, E);
  const routing = route({
    ...router,
    ...(!router.expertChoice && { topK: K }),
    logits: floats(logits, T, E),
    ...(router.noise && { noiseLogits: floats(noiseLogits, T, E) }),
    ...(variant.selectionBias && { selectionBias: floats(random.normals(E, 0.3), E) }),
    ...(scale && { expertScale: scale }),
    ...(inputs.mask && { mask: ints(inputs.mask, T) }),
    ...(inputs.indices && { indices: ints(inputs.indices, T, K) }),
    ...{ sequenceLength: inputs.sequenceLength, step: inputs.step },
  });
  const { mask, ...rest } = options;
  const losses = download(
    routerLoss({ routing, ...rest, mask: mask && ints(mask, T), ...(scale && { expertScale: scale }) }),
  );
  const routed = download(routing);
  return {
    losses,
    routed: {
      router: { ...router, topK: K, ...inputs, ...(scale && { expertScale }) },
      experts: E,
      logits: routed.logits,
      noiseLogits: routed.noiseLogits,
      choice: { indices: routed.indices, dropped: routed.dropped ?? new Int32Array(T * K) },
    },
  };
}

describe.each(DEVICES)('router losses on %s', device => {
  const cases = WATCHED_ROUTERS.flatMap(router =>
    LOSSES.flatMap(([title, optionsFor]) => {
      const options = lossesOf(router, optionsFor(T));
      return options ? [{ router, options, title: `${title}: ${routerTitle(router)}` }] : [];
    }),
  );

  it.each(cases)('$title', ({ router, options }) => {
    const { losses: actual, routed } = run(router, options, device);
    const expected = referenceLosses(routed, options);
    for (const [i, value] of expected.losses.entries()) {
      const error = Math.abs(actual.losses[i]! - value);
      if (!(error <= VALUE_BOUND * Math.abs(value)))
        expect.fail(`loss ${i}: ${actual.losses[i]} for ${value}`);
    }
    expectClose('entropy', actual.entropy, [expected.entropy], VALUE_BOUND);
    expectClose('dLogits', actual.dLogits, expected.dLogits, GRADIENT_BOUND);
    expect(actual.dNoiseLogits === undefined).toBe(expected.dNoiseLogits === undefined);
    if (expected.dNoiseLogits)
      expectClose('dNoiseLogits', actual.dNoiseLogits!, expected.dNoiseLogits, GRADIENT_BOUND);
  });

  it('gives the same bits for any number of threads', () => {
    const threads = getThreads();
    const bits = [1, 2, 5].map(count => {
      setThreads(count);
      const options = { loadBalance: 0.7, z: 0.3, importance: 1, load: 1 };
      const noisy: RouterVariant = { noise: { kind: 'noisyTopK' }, step: 0 };
      return Object.values(run(noisy, options, device).losses).map(values => [...values!]);
    });
    setThreads(threads);
    expect(bits[1]).toEqual(bits[0]);
    expect(bits[2]).toEqual(bits[0]);
  });
});

it('is alpha when all experts are used alike, and the entropy is what is left of ln E', async () => {
  const even = tensor(
    Float32Array.from({ length: 4 * 4 }, (_, i) => (i % 5 === 0 ? 40 : 0)),
    [4, 4],
  );
  const sure = routerLoss({ routing: route({ logits: even, topK: 1 }), loadBalance: 0.25 });
  expect((await sure.losses.data())[0]).toBeCloseTo(0.25, 6);
  expect((await sure.entropy.data())[0]).toBeCloseTo(0, 6);
  const open = routerLoss({ routing: route({ logits: tensor(new Float32Array(12), [2, 6]), topK: 1 }) });
  expect((await open.entropy.data())[0]).toBeCloseTo(Math.log(6), 6);
});

it.each([
  [{ sequenceLength: 7 }, 'sequenceLength: expected a divisor of the 300 tokens, got 7'],
  [{ sequenceLength: 0 }, 'sequenceLength: expected an integer from 1 to 2147483647, got 0'],
  [{ loadBalance: Number.NaN }, 'loadBalance: expected a finite number, got NaN'],
  [{ z: '1' }, 'z: expected a finite number, got "1"'],
  [{ importance: Infinity }, 'importance: expected a finite number, got Infinity'],
  [{ load: null }, 'load: expected a finite number, got null'],
  [{ balance: 1 }, /^args: expected only the keys routing, .*, got "balance"$/],
])('refuses %j', (change, sentence) => {
  const routing = route({ logits: tensor(logits, [T, E]), topK: 3 });
  expect(() => routerLoss({ routing, ...(change as object) })).toThrow(sentence);
});

it('refuses a loss that the router has not', () => {
  const z = tensor(logits, [T, E]);
  const taken = route({ logits: z, expertChoice: { factor: 1 } });
  expect(() => routerLoss({ routing: taken, loadBalance: 1 })).toThrow(
    'loadBalance: expected nothing with expertChoice, got 1',
  );
  const quiet = route({ logits: z, topK: 3 });
  expect(() => routerLoss({ routing: quiet, load: 1 })).toThrow(/^load: expected .*noisyTopK.*, got 1$/);
});

describe.each(DEVICES)('balance on %s', device => {
  it('moves the selection bias towards the mean', async () => {
    const selectionBias = tensor([0.5, 0.5, 0.5, 0.5], [4], { device });
    const counts = tensor(Int32Array.of(10, 2, 4, 0), [4], { device });
    updateSelectionBias({ selectionBias, counts, rate: 0.125 });
    expect([...(await selectionBias.data())]).toEqual([0.375, 0.625, 0.5, 0.625]);
  });

  it('brings neglected experts into use', async () => {
    const random = seeded(5).normals(400 * 8);
    const z = tensor(
      Float32Array.from(random, (value, i) => value + (i % 8 === 0 ? 4 : 0)),
      [400, 8],
      { device },
    );
    const selectionBias = tensor(new Float32Array(8), [8], { device });
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
    const z = tensor(Float32Array.of(3, 0, 0, 2, 1, 0, 5, 0, 1), [3, 3], { device });
    const routing = route({ logits: z, topK: 1, capacity: { tokensPerExpert: 2 } });
    expect(await routingStatistics(routing)).toEqual({
      counts: Int32Array.of(3, 0, 0),
      shares: Float64Array.of(1, 0, 0),
      maxViolation: 2,
      squaredVariation: 2,
      dropped: 1,
    });
  });

  it('counts neither untaken slots as dropped nor those that nobody asked for', async () => {
    const z = tensor(Float32Array.of(3, 0, 0, 2, 1, 0, 5, 0, 1, 0, 0, 9), [4, 3], { device });
    const mask = tensor(Int32Array.of(1, 0, 1, 1), [4], { device });
    const masked = route({ logits: z, topK: 2, topP: 0.9, capacity: { tokensPerExpert: 1 }, mask });
    // Each of the three tokens takes its best expert alone: e³ and e⁵ are above nine tenths, so is e⁹.
    expect(await routingStatistics(masked)).toMatchObject({ counts: Int32Array.of(2, 0, 1), dropped: 1 });
    const residual = route({ logits: z, topK: 1, capacity: { tokensPerExpert: 1, dropped: 'residual' } });
    expect(await routingStatistics(residual)).toMatchObject({ counts: Int32Array.of(3, 0, 1), dropped: 2 });
  });
});
