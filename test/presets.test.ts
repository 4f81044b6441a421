// The presets: their sizes against the models' published sizes, their options against the layers that others wrote, and
// each of them shrunk, forward and backward, against the reference.

import { describe, expect, test } from 'vitest';
import { MoELayer, type MoELayerConfig, type Preset, presets, tensor, withOverrides } from '../src/index.ts';
import { parameterShapes, resolveConfig } from '../src/layer-config.ts';
import { referenceMoe } from './reference/moe.ts';
import type { ReferenceRouter } from './reference/score.ts';
import { expectClose } from './support/compare.ts';
import { readGolden } from './support/golden.ts';
import { seeded } from './support/random.ts';
import { PRESET_NAMES, type PresetName, shrunk } from './support/shrunk.ts';
import { download, upload } from './support/tensors.ts';
import { randomParameters } from './weights/support/published.ts';

/** MoE layers of the model, and all its parameters in billions as published. */
const MODELS: Readonly<Record<PresetName, [layers: number, billions: number]>> = {
  switchBase128: [12, 7.4],
  mixtral8x7b: [32, 46.7],
  mixtral8x22b: [56, 141],
  grok1: [64, 314],
  deepseekMoe16b: [27, 16.4],
  deepseekV2: [59, 236],
  deepseekV2Lite: [26, 15.7],
  deepseekV3: [58, 671],
  jamba: [16, 52],
  llama4Scout: [48, 109],
  llama4Maverick: [24, 400],
  qwen3_30bA3b: [48, 30.5],
  qwen3_235bA22b: [94, 235],
  qwen2_57bA14b: [28, 57.4],
  olmoe: [16, 6.9],
  gptOss20b: [24, 20.9],
  gptOss120b: [36, 116.8],
  dbrx: [40, 132],
  phi35Moe: [32, 41.9],
  graniteMoe: [32, 3.3],
  nemotron3Nano30bA3b: [23, 31.6],
};

test.each(PRESET_NAMES)('%s: its MoE layers are most of the model', name => {
  const shapes = Object.values(parameterShapes(resolveConfig(presets[name]), true));
  const perLayer = shapes.reduce((sum, shape) => sum + shape.reduce((a, b) => a * b), 0);
  const [layers, billions] = MODELS[name];
  const share = (perLayer * layers) / (billions * 1e9);
  expect(share).toBeGreaterThan(0.85);
  expect(share).toBeLessThan(1);
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
  const { router = {}, shared } = config;
  return resolveConfig({
    ...config,
    ...{ hidden: 8, intermediate: 8, experts: 8, topK: Math.min(config.topK, 4) },
    router: {
      score: 'softmax',
      normalize: false,
      ...(router.score === undefined || router.score === 'softmax' ? { softmaxOver: 'all' } : {}),
      ...router,
      scale: 1,
      ...(router.groups && { groups: { ...router.groups, count: 4, top: 2 } }),
      ...(router.capacity && {
        capacity: { dropPolicy: 'position', ...router.capacity, tokensPerExpert: 1 },
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
  const tokens = 13;
  const parameters = randomParameters(config, 1);
  const random = seeded(9);
  const [x, dy] = [random.normals(tokens * hidden), random.normals(tokens * hidden)];

  test('agrees with the reference, forward and backward', () => {
    const weights = Object.entries(parameters).map(([key, { shape, values }]) => [
      key,
      tensor(values, shape),
    ]);
    using layer = new MoELayer(config, { weights: Object.fromEntries(weights) });
    const { y, routing, saved } = layer.forwardTrain(upload(x, [tokens, hidden], 'float32'));
    const { dx, gradients } = layer.backward(saved, upload(dy, [tokens, hidden], 'float32'));
    saved.dispose();
    const actual = download({ y, dx, gradients });
    expect(routing.router.topK).toBe(config.topK);

    const { bias: _, selectionBias: __, expertScale: ___, ...router } = config.router ?? {};
    const { activation = 'swiglu' } = config;
    const values = Object.fromEntries(Object.entries(parameters).map(([key, { values }]) => [key, values]));
    const reference = { ...config, activation, tokens, router: router as ReferenceRouter };
    const exact = referenceMoe(reference, values, x, dy);
    expectClose('y', actual.y, exact.y, 1e-5);
    expectClose('dx', actual.dx, exact.dx, 1e-4);
    expect(Object.keys(actual.gradients).sort()).toEqual(Object.keys(exact.gradients).sort());
    for (const [key, gradient] of Object.entries(exact.gradients)) {
      expectClose(`d ${key}`, actual.gradients[key]!, gradient, 1e-4);
    }
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
