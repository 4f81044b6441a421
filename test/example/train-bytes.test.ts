// The example's own gradients against finite differences, and that every routing family learns.

import { describe, expect, it } from 'vitest';
import { rmsNorm, seededRandom } from '../../examples/train-bytes/maths.ts';
import { type Batch, ByteModel } from '../../examples/train-bytes/model.ts';
import type { Parameter } from '../../examples/train-bytes/parameter.ts';
import { RECIPES, ROUTER_NAMES } from '../../examples/train-bytes/routers.ts';
import { randomBatch, unigramEntropy } from '../../examples/train-bytes/text.ts';
import { memory } from '../../src/index.ts';
import { train } from './support/train.ts';

const TINY = { context: 3, embedding: 4, hidden: 12, intermediate: 8, experts: 4, sequence: 4, seed: 9 };
const STEP = 2e-3;

function tinyBatch(tokens: number): Batch {
  const random = seededRandom(11);
  const bytes = Uint8Array.from({ length: 400 }, () => Math.floor(random() * 256));
  return randomBatch(bytes, { ...TINY, tokens }, random);
}

/** d loss / d s of values + s·direction at s = 0, by central differences; the routing must not change on the way. */
async function slope(model: ByteModel, batch: Batch, { values }: Parameter, direction: Float32Array) {
  const original = values.slice();
  const losses: number[] = [];
  const routings: string[] = [];
  for (const s of [STEP, -STEP]) {
    values.forEach((_, i) => {
      values[i] = original[i]! + s * direction[i]!;
    });
    const { prediction, router, counts } = await model.run(batch, 0);
    losses.push(prediction + router);
    routings.push(Array.from(counts).join());
  }
  values.set(original);
  expect(routings[0], 'the step changed the choice of experts: choose another seed').toBe(routings[1]);
  return (losses[0]! - losses[1]!) / (2 * STEP);
}

function dot(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, i) => sum + value * b[i]!, 0);
}

describe('gradients', () => {
  /** With losses large enough to be seen. */
  const BALANCED = { ...RECIPES['aux-loss'], losses: { loadBalance: 0.5 } };
  const NOISY = { ...RECIPES['noisy-top-k'], losses: { importance: 0.5, load: 0.5 } };
  const around = ['embedding', 'mix.weight', 'mix.bias', 'head.weight', 'head.bias'];
  const within = ['router.weight', 'experts.gate_up', 'experts.down'];
  const cases = [
    ...[...around, ...within].map(name => ({ name, router: BALANCED, title: 'load-balancing loss' })),
    ...['embedding', 'router.weight', 'router.noise_weight'].map(name => ({
      ...{ name, router: NOISY, title: 'noise, importance and load losses' },
    })),
  ];

  it.each(cases)('of $name agree with finite differences: $title', async ({ name, router }) => {
    using model = new ByteModel({ ...TINY, router });
    const batch = tinyBatch(24);
    await model.run(batch, 0);
    const parameter = model.parameters[name]!;
    const gradient = parameter.gradients.slice();
    const norm = Math.sqrt(dot(gradient, gradient));
    expect(norm).toBeGreaterThan(1e-3);
    const random = seededRandom(3);
    const steepest = gradient.map(g => g / norm);
    const signs = () => gradient.map(() => (random() < 0.5 ? -1 : 1) / 2);
    for (const direction of [steepest, signs(), signs(), signs()]) {
      const expected = await slope(model, batch, parameter, direction);
      const error = Math.abs(dot(gradient, direction) - expected);
      expect(error, `slope ${expected}, gradient ${dot(gradient, direction)}`).toBeLessThan(5e-3 * norm);
    }
  });

  it('add up over batches', async () => {
    using model = new ByteModel({ ...TINY, router: BALANCED });
    const batch = tinyBatch(24);
    await model.run(batch, 0);
    const once = model.parameters['mix.weight']!.gradients.slice();
    await model.run(batch, 0);
    const twice = model.parameters['mix.weight']!.gradients;
    const difference = once.map((g, i) => twice[i]! - 2 * g);
    expect(Math.sqrt(dot(difference, difference) / dot(once, once))).toBeLessThan(1e-6);
  });
});

it('rmsNorm leaves rows of mean square 1', () => {
  const random = seededRandom(5);
  const { out } = rmsNorm(
    Float32Array.from({ length: 3 * 64 }, () => 4 * random() - 1),
    64,
  );
  for (let row = 0; row < 3; row++) {
    const part = out.subarray(row * 64, (row + 1) * 64);
    expect(dot(part, part) / 64).toBeCloseTo(1, 5);
  }
});

/** Words in random order: what follows depends on the context, which byte comes first in a word does not. */
function generatedText(length: number): Uint8Array {
  const random = seededRandom(17);
  const words = ['router', 'expert', 'token', 'gate', 'combine', 'dispatch', 'wgrad', 'dgrad'];
  let text = '';
  while (text.length < length) text += `${words[Math.floor(random() * words.length)]} `;
  return new TextEncoder().encode(text);
}

const SMALL = { context: 8, embedding: 8, hidden: 32, intermediate: 16, experts: 8, sequence: 8, seed: 9 };
const bytes = generatedText(20_000);
const training = (steps: number) => ({ bytes, steps, config: SMALL, tokens: 64, validationBytes: 512 });

describe.each(ROUTER_NAMES)('router %s', name => {
  it('lowers the loss below the unigram entropy, and its shares add up', async () => {
    const { losses, validation, usage } = await train(name, training(120));
    expect(losses[0]).toBeGreaterThan(4);
    expect(validation).toBeLessThan(0.5 * unigramEntropy(bytes));
    expect(usage.tokens).toBe(512);
    expect(usage.rows).toBeGreaterThan(0);
    expect(usage.shares.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 12);
  });

  it('gives the same bits again', async () => {
    expect((await train(name, training(5))).losses).toEqual((await train(name, training(5))).losses);
  });

  it('leaves no tensor behind', async () => {
    const before = memory().tensors;
    await train(name, training(2));
    expect(memory().tensors).toBe(before);
  });
});

it('unigramEntropy is that of the byte frequencies', () => {
  expect(unigramEntropy(new Uint8Array([1, 1, 2, 2]))).toBeCloseTo(Math.LN2, 12);
  expect(unigramEntropy(new Uint8Array(9))).toBe(0);
});
