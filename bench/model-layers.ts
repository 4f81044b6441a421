// The layers of published models as shapes to measure: the routed part of each preset, in prefill and in decode.

import { type Preset, presets } from '../src/presets.ts';
import type { LayerDesign } from './layer-design.ts';
import type { LayerShape } from './shapes.ts';

const NAMES: Readonly<Record<keyof typeof presets, string>> = {
  switchBase128: 'switch-base-128',
  glam64B64E: 'glam-64b-64e',
  expertChoice8B64E: 'expert-choice-8b',
  mixtureOfDepths: 'mixture-of-depths',
  mixtral8x7b: 'mixtral-8x7b',
  mixtral8x22b: 'mixtral-8x22b',
  grok1: 'grok-1',
  deepseekMoe16b: 'deepseek-moe-16b',
  deepseekV2: 'deepseek-v2',
  deepseekV2Lite: 'deepseek-v2-lite',
  deepseekV3: 'deepseek-v3',
  jamba: 'jamba',
  llama4Scout: 'llama-4-scout',
  llama4Maverick: 'llama-4-maverick',
  qwen3_30bA3b: 'qwen3-30b-a3b',
  qwen3_235bA22b: 'qwen3-235b-a22b',
  qwen2_57bA14b: 'qwen2-57b-a14b',
  olmoe: 'olmoe',
  gptOss20b: 'gpt-oss-20b',
  gptOss120b: 'gpt-oss-120b',
  dbrx: 'dbrx',
  phi35Moe: 'phi-3.5-moe',
  longcatFlash: 'longcat-flash',
  graniteMoe: 'granite-moe',
  nemotron3Nano30bA3b: 'nemotron-3-nano',
};

/** What a name ends with in decode: one token, where prefill has a prompt of many. */
const DECODE = ':decode';
const TOKENS = { prefill: 4096, decode: 1 };

export interface ModelLayer {
  readonly shape: LayerShape;
  readonly design: LayerDesign;
}

/** By name, prefill before decode. */
export const MODEL_LAYERS: ReadonlyMap<string, ModelLayer> = new Map(
  Object.entries(presets).flatMap(([key, preset]): [string, ModelLayer][] => {
    const name = NAMES[key as keyof typeof presets];
    return [
      [name, modelLayer(preset, TOKENS.prefill)],
      [`${name}${DECODE}`, modelLayer(preset, TOKENS.decode)],
    ];
  }),
);

function modelLayer(preset: Preset, tokens: number): ModelLayer {
  const { hidden, intermediate, experts, topK, activation = 'swiglu', router = {}, ...rest } = preset;
  const { activationLimit, activationAlpha, activationUpShift, bias, applyWeightTo, identityExperts } = rest;
  return {
    shape: { tokens, hidden, intermediate, experts, topK: topK ?? expertsOnAverage(preset), activation },
    design: {
      ...{ activationLimit, activationAlpha, activationUpShift, bias, applyWeightTo, identityExperts },
      router,
    },
  };
}

/** Where experts choose: how many a token gets, one at least. */
function expertsOnAverage({ router }: Preset): number {
  return Math.max(1, router?.expertChoice?.factor ?? 1);
}
