// The presets: their sizes against the models' published sizes, their options against the layers that others wrote, and
// each of them shrunk, forward and backward, against the reference.

import { describe, expect, test } from 'vitest';
import { MoELayer, type MoELayerConfig, type Preset, presets, tensor, withOverrides } from '../src/index.ts';
import { parameterShapes, resolveConfig } from '../src/layer-config.ts';
import { referenceMoe } from './reference/moe.ts';
import { expectClose } from './support/compare.ts';
import { readGolden } from './support/golden.ts';
import { seeded } from './support/random.ts';
import { PRESET_NAMES, type PresetName, shrunk } from './support/shrunk.ts';
import { download, upload } from './support/tensors.ts';
import { randomParameters } from './weights/support/published.ts';

/** MoE layers of the model, all its parameters in billions, and who says so. Mixture-of-Depths is not one model. */
const MODELS: Readonly<
  Record<Exclude<PresetName, 'mixtureOfDepths'>, [layers: number, billions: number, source: string]>
> = {
  switchBase128: [12, 7.4, 'arXiv 2101.03961, table 8'],
  glam64B64E: [32, 1200, 'arXiv 2112.06905, table 4'],
  expertChoice8B64E: [16, 143, 'arXiv 2202.09368, table 1'],
  mixtral8x7b: [32, 46.7, 'mistral.ai, Mixtral of experts'],
  mixtral8x22b: [56, 141, 'mistral.ai, Cheaper, Better, Faster, Stronger'],
  grok1: [64, 314, 'x.ai, Open Release of Grok-1'],
  deepseekMoe16b: [27, 16.4, 'README of deepseek-ai/DeepSeek-MoE'],
  deepseekV2: [59, 236, 'arXiv 2405.04434, abstract'],
  deepseekV2Lite: [26, 15.7, 'model card of deepseek-ai/DeepSeek-V2-Lite'],
  deepseekV3: [58, 671, 'arXiv 2412.19437, abstract'],
  jamba: [16, 52, 'model card of ai21labs/Jamba-v0.1'],
  llama4Scout: [48, 109, 'model card of meta-llama/Llama-4-Scout-17B-16E'],
  llama4Maverick: [24, 400, 'model card of meta-llama/Llama-4-Maverick-17B-128E'],
  qwen3_30bA3b: [48, 30.5, 'model card of Qwen/Qwen3-30B-A3B'],
  qwen3_235bA22b: [94, 235, 'model card of Qwen/Qwen3-235B-A22B'],
  qwen2_57bA14b: [28, 57.41, 'qwenlm.github.io, Hello Qwen2'],
  olmoe: [16, 6.9, 'arXiv 2409.02060, figure 4'],
  gptOss20b: [24, 20.91, 'arXiv 2508.10925, table 1'],
  gptOss120b: [36, 116.83, 'arXiv 2508.10925, table 1'],
  dbrx: [40, 132, 'model card of databricks/dbrx-base'],
  phi35Moe: [32, 41.9, 'the shapes in config.json of microsoft/Phi-3.5-MoE-instruct'],
  longcatFlash: [28, 560, 'arXiv 2509.01322, abstract'],
  graniteMoe: [32, 3.3, 'model card of ibm-granite/granite-3.1-3b-a800m-base'],
  nemotron3Nano30bA3b: [23, 31.6, 'Nemotron 3 Nano report, abstract'],
};

test.each(Object.entries(MODELS))('%s: its MoE layers are most of the model', (name, model) => {
  const [layers, billions, source] = model;
  const shapes = Object.values(parameterShapes(resolveConfig(presets[name as PresetName]), true));
  const perLayer = shapes.reduce((sum, shape) => sum + shape.reduce((a, b) => a * b), 0);
  const share = (perLayer * layers) / (billions * 1e9);
  expect(share, source).toBeGreaterThan(0.85);
  expect(share, source).toBeLessThan(1);
});

/** Golden cases of the presets' models; sizes, and the options that are sizes, differ. */
const GOLDEN = {
  mixtral: 'mixtral8x7b',
  jamba: 'jamba',
  grok1: 'grok1',
  granitemoe: 'graniteMoe',
  deepseek_v2: 'deepseekV2',
  deepseek_v3: 'deepseekV3',
  gpt_oss: 'gptOss20b',
  llama4: 'llama4Scout',
  nemotron_h: 'nemotron3Nano30bA3b',
  switch: 'switchBase128',
} as const satisfies Record<string, PresetName>;

/** The layer's options, every default filled in, at one size. */
function optionsOf(config: MoELayerConfig): unknown {
  const { router = {}, shared, topK = 1 } = config;
  return resolveConfig({
    ...config,
    ...{ hidden: 8, intermediate: 8, experts: 8, topK: Math.min(topK, 4) },
    router: {
      score: 'softmax',
      normalize: false,
      ...(router.score === undefined || router.score === 'softmax' ? { softmaxOver: 'all' } : {}),
      ...router,
      scale: 1,
      ...(router.groups && { groups: { ...router.groups, count: 4, top: 2 } }),
      // A golden case is one sequence.
      ...(router.capacity && {
        capacity: { dropPolicy: 'position', ...router.capacity, tokensPerExpert: 1, per: 'sequence' },
      }),
    },
    shared: shared && { ...shared, intermediate: 8 },
  });
}

test.each(Object.entries(GOLDEN))('%s: the golden case has the options of %s', (golden, name) => {
  const { config } = readGolden(golden as keyof typeof GOLDEN);
  const { tokens: _, name: __, source: ___, ...layer } = config as typeof config & Record<string, unknown>;
  expect(optionsOf({ ...presets[name], topK: layer.topK })).toEqual(optionsOf(layer as MoELayerConfig));
});

describe.each(PRESET_NAMES)('%s, shrunk', name => {
  const config = shrunk(name);
  const { hidden } = config;
  const [sequences, sequenceLength] = [3, 7];
  const tokens = sequences * sequenceLength;
  const parameters = randomParameters(config, 1);
  const random = seeded(9);
  const [x, dy] = [random.normals(tokens * hidden), random.normals(tokens * hidden)];

  test('agrees with the reference, forward and backward', () => {
    const weights = Object.entries(parameters).map(([key, { shape, values }]) => [
      key,
      tensor(values, shape),
    ]);
    using layer = new MoELayer(config, { weights: Object.fromEntries(weights) });
    const { bias: _, selectionBias: __, expertScale: ___, hash: ____, ...router } = config.router ?? {};
    const bySequence = [router.capacity, router.expertChoice].some(rows => rows?.per === 'sequence');
    const call = bySequence ? { sequenceLength } : {};
    const { y, routing, saved } = layer.forwardTrain(upload(x, [tokens, hidden], 'float32'), call);
    const { dx, gradients } = layer.backward(saved, upload(dy, [tokens, hidden], 'float32'));
    saved.dispose();
    const actual = download({ y, dx, gradients });
    const { topK } = routing.router;
    expect(topK).toBe(config.topK ?? config.experts);

    const { activation = 'swiglu' } = config;
    const values = Object.fromEntries(Object.entries(parameters).map(([key, { values }]) => [key, values]));
    const exact = referenceMoe({ ...config, tokens, activation, topK, router }, values, x, dy, call);
    expectClose('y', actual.y, exact.y, 1e-5);
    expectClose('dx', actual.dx, exact.dx, 1e-4);
    expect(Object.keys(actual.gradients).sort()).toEqual(Object.keys(exact.gradients).sort());
    for (const [key, gradient] of Object.entries(exact.gradients)) {
      expectClose(`d ${key}`, actual.gradients[key]!, gradient, 1e-4);
    }
  });
});

describe('routers that no golden case has: the weights are those of the paper', () => {
  const [sequences, sequenceLength] = [2, 16];
  const tokens = sequences * sequenceLength;

  /** Of a token's logits: its softmax. */
  function probabilities(z: number[]): number[] {
    const exponentials = z.map(Math.exp);
    const total = exponentials.reduce((a, b) => a + b, 0);
    return exponentials.map(value => value / total);
  }
  const largest = (values: number[], count: number) => {
    const order = values.map((_, i) => i).sort((a, b) => values[b]! - values[a]!);
    return order.slice(0, count);
  };
  /** weights[t][e] of the logits z[t][e], a zero where e does not serve t. */
  const EXPECTED: Partial<Record<PresetName, (z: number[][]) => number[][]>> = {
    glam64B64E: z =>
      z.map(logits => {
        const p = probabilities(logits);
        const [first, second] = largest(p, 2) as [number, number];
        return p.map((share, e) => (e === first || e === second ? share / (p[first]! + p[second]!) : 0));
      }),
    expertChoice8B64E: z => {
      const p = z.map(probabilities);
      const rows = (2 * tokens) / z[0]!.length;
      const taken = z[0]!.map((_, e) =>
        largest(
          p.map(shares => shares[e]!),
          rows,
        ),
      );
      return p.map((shares, t) => shares.map((share, e) => (taken[e]!.includes(t) ? share : 0)));
    },
    mixtureOfDepths: z => {
      const raw = z.map(([logit]) => logit!);
      const taken = Array.from({ length: sequences }, (_, s) => {
        const sequence = raw.slice(s * sequenceLength, (s + 1) * sequenceLength);
        return largest(sequence, 2).map(t => s * sequenceLength + t);
      }).flat();
      return raw.map((logit, t) => [taken.includes(t) ? logit : 0]);
    },
    longcatFlash: z =>
      z.map(logits => {
        const p = probabilities(logits);
        const chosen = largest(p, 3);
        return p.map((share, e) => (chosen.includes(e) ? 6 * share : 0));
      }),
  };

  test.each(Object.entries(EXPECTED))('%s', (name, expected) => {
    const config = shrunk(name as PresetName);
    using layer = new MoELayer(config, { seed: 4 });
    const x = seeded(2).normals(tokens * config.hidden, 3);
    const call = config.router?.expertChoice?.per === 'sequence' ? { sequenceLength } : {};
    const { routing, saved } = layer.forwardTrain(upload(x, [tokens, config.hidden], 'float32'), call);
    const { logits, indices, weights } = download({ ...routing, router: undefined, run: undefined });
    saved.dispose();
    const width = logits!.length / tokens;
    const topK = indices!.length / tokens;
    const z = Array.from({ length: tokens }, (_, t) => [...logits!.slice(t * width, (t + 1) * width)]);
    const actual = new Float64Array(tokens * width);
    for (const [slot, expert] of indices!.entries()) {
      actual[Math.floor(slot / topK) * width + expert] = weights![slot]!;
    }
    expectClose('weights', actual, Float64Array.from(expected(z).flat()), 1e-5);
  });
});

describe('withOverrides', () => {
  test('keeps what is not named, also within', () => {
    const small = withOverrides(presets.deepseekV3, {
      experts: 16,
      topK: 2,
      router: { groups: { count: 4, top: 2 } },
      shared: { intermediate: 64 },
    });
    expect(small).toEqual({
      ...{ hidden: 7168, intermediate: 2048, experts: 16, topK: 2 },
      router: {
        ...presets.deepseekV3.router,
        groups: { count: 4, top: 2, score: 'top2sum', maskValue: Number.NEGATIVE_INFINITY },
      },
      shared: { intermediate: 64 },
    });
  });

  test('adds and takes away', () => {
    expect(withOverrides(presets.olmoe, { shared: { intermediate: 8 }, dtype: 'bfloat16' })).toEqual({
      ...presets.olmoe,
      ...{ shared: { intermediate: 8 }, dtype: 'bfloat16' },
    });
    expect(withOverrides(presets.switchBase128, { router: { capacity: undefined } })).toEqual({
      ...presets.switchBase128,
      router: {},
    });
  });

  test('leaves the preset alone, and is as frozen', () => {
    const before = structuredClone(presets.qwen2_57bA14b);
    const small = withOverrides(presets.qwen2_57bA14b, { shared: { intermediate: 16 } });
    expect(presets.qwen2_57bA14b).toEqual(before);
    for (const config of [...Object.values<Preset>(presets), small]) {
      for (const part of [config, config.router, config.router?.groups, config.shared]) {
        if (part) expect(Object.isFrozen(part)).toBe(true);
      }
    }
  });

  const REFUSED: [string, unknown, string][] = [
    ['K > E', { experts: 4 }, 'config.topK: expected an integer from 1 to 4, got 8'],
    [
      'groups that do not divide',
      { router: { groups: { count: 7 } } },
      'config.router.groups.count: expected a divisor',
    ],
    ['an unknown option', { router: { gruops: {} } }, 'config.router: expected only the keys '],
    [
      'no size',
      { hidden: undefined },
      'config.hidden: expected an integer from 1 to 2147483647, got undefined',
    ],
    ['no object', 5, 'overrides: expected an object, got 5'],
  ];
  test.each(REFUSED)('refuses %s', (_, overrides, message) => {
    expect(() => withOverrides(presets.deepseekV3, overrides as object)).toThrow(message);
  });
});
