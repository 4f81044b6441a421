// The MoE layers of published models as configurations. Their numbers are those of the named configuration files and
// papers; what a model needs beyond its layer (which layers are MoE layers) stands in words beside it.

import { describe } from './dtype.ts';
import { badArgument } from './errors.ts';
import { type MoELayerConfig, resolveConfig } from './layer-config.ts';

/** A configuration to construct a layer from, or to start from with {@link withOverrides}. Frozen, also within. */
export type Preset = Readonly<MoELayerConfig>;

/** One MoE layer of each model. */
export const presets = {
  /**
   * Switch Transformer, base size with 128 experts (arXiv 2101.03961; google/switch-base-128). Every second layer, from
   * layer 1, of the 12 encoder and of the 12 decoder layers.
   */
  switchBase128: preset({
    ...dimensions(768, 3072, 128, 1),
    activation: 'relu',
    router: { capacity: { tokensPerExpert: 64, per: 'sequence' } },
  }),

  /**
   * GLaM 64B/64E, 1.2T (arXiv 2112.06905, table 4). Every second of 64 layers, from layer 0. The paper gives its dense
   * feed-forwards a gated GELU and says nothing of the experts: that these are ungated follows from its 1.2T parameters, 96.6B of
   * them active; that they are ReLU, and the two weights normalised, from its authors' code (github.com/google/praxis,
   * layers/glam.py). No capacity: the paper names none.
   */
  glam64B64E: preset({
    ...dimensions(8192, 32768, 64, 2),
    activation: 'relu',
    router: { normalize: true },
  }),

  /**
   * Expert choice 8B/64E, 143B (arXiv 2202.09368, table 1 and equation 3). Every second of 32 layers, from layer 0. Each
   * expert takes 2/64 of a batch's tokens, so that two experts serve a token on average. Which tokens those are depends on the
   * whole batch.
   */
  expertChoice8B64E: preset({
    ...{ hidden: 4096, intermediate: 16384, experts: 64 },
    activation: 'gelu',
    router: { expertChoice: { factor: 2 } },
  }),

  /**
   * Mixture-of-Depths (arXiv 2404.02258): of each sequence the 12.5 % of tokens with the largest logits go through the block,
   * times their logit, in every second block; for the others y is 0, and the residual around the layer is all they get. The
   * paper's block is attention and MLP; here it is the MLP. It names its models by parameters alone (60M to 3B), neither
   * widths nor activation: 1024, 4096 and GELU only stand for them.
   */
  mixtureOfDepths: preset({
    ...{ hidden: 1024, intermediate: 4096, experts: 1 },
    activation: 'gelu',
    router: { score: 'identity', expertChoice: { factor: 0.125, per: 'sequence' } },
  }),

  /** Mixtral 8x7B (arXiv 2401.04088; mistralai/Mixtral-8x7B-v0.1). All 32 layers. */
  mixtral8x7b: preset({ ...dimensions(4096, 14336, 8, 2), router: { normalize: true } }),

  /** Mixtral 8x22B (mistralai/Mixtral-8x22B-v0.1). All 56 layers. */
  mixtral8x22b: preset({ ...dimensions(6144, 16384, 8, 2), router: { normalize: true } }),

  /** Grok-1 (github.com/xai-org/grok-1, run.py and model.py). All 64 layers. */
  grok1: preset({ ...dimensions(6144, 32768, 8, 2), activation: 'geglu_tanh' }),

  /** DeepSeekMoE 16B (arXiv 2401.06066; deepseek-ai/deepseek-moe-16b-base). Layers 1 to 27 of 28. */
  deepseekMoe16b: preset({ ...dimensions(2048, 1408, 64, 6), shared: { intermediate: 2 * 1408 } }),

  /** DeepSeek-V2, 236B (arXiv 2405.04434; deepseek-ai/DeepSeek-V2). Layers 1 to 59 of 60. */
  deepseekV2: preset({
    ...dimensions(5120, 1536, 160, 6),
    router: { groups: { count: 8, top: 3, score: 'max', maskValue: 0 }, scale: 16 },
    shared: { intermediate: 2 * 1536 },
  }),

  /** DeepSeek-V2-Lite, 16B (arXiv 2405.04434; deepseek-ai/DeepSeek-V2-Lite). Layers 1 to 26 of 27. */
  deepseekV2Lite: preset({ ...dimensions(2048, 1408, 64, 6), shared: { intermediate: 2 * 1408 } }),

  /** DeepSeek-V3, 671B (arXiv 2412.19437; deepseek-ai/DeepSeek-V3). Layers 3 to 60 of 61. */
  deepseekV3: preset({
    ...dimensions(7168, 2048, 256, 8),
    router: {
      ...selectionBiasedSigmoid(2.5),
      groups: { count: 8, top: 4, score: 'top2sum', maskValue: Number.NEGATIVE_INFINITY },
    },
    shared: { intermediate: 2048 },
  }),

  /** Jamba v0.1, 52B (arXiv 2403.19887; ai21labs/Jamba-v0.1). Every second of 32 layers, from layer 1. */
  jamba: preset({ ...dimensions(4096, 14336, 16, 2) }),

  /** Llama 4 Scout, 17B of 109B (meta-llama/Llama-4-Scout-17B-16E). All 48 layers. */
  llama4Scout: preset(llama4(16)),

  /** Llama 4 Maverick, 17B of 400B (meta-llama/Llama-4-Maverick-17B-128E). Every second of 48 layers, from layer 1. */
  llama4Maverick: preset(llama4(128)),

  /** Qwen3-30B-A3B (arXiv 2505.09388; Qwen/Qwen3-30B-A3B). All 48 layers. */
  qwen3_30bA3b: preset({ ...dimensions(2048, 768, 128, 8), router: { normalize: true } }),

  /** Qwen3-235B-A22B (arXiv 2505.09388; Qwen/Qwen3-235B-A22B). All 94 layers. */
  qwen3_235bA22b: preset({ ...dimensions(4096, 1536, 128, 8), router: { normalize: true } }),

  /** Qwen2-57B-A14B (arXiv 2407.10671; Qwen/Qwen2-57B-A14B). All 28 layers. */
  qwen2_57bA14b: preset({
    ...dimensions(3584, 2560, 64, 8),
    shared: { intermediate: 20480, gate: 'sigmoid' },
  }),

  /** OLMoE-1B-7B (arXiv 2409.02060; allenai/OLMoE-1B-7B-0924). All 16 layers. */
  olmoe: preset({ ...dimensions(2048, 1024, 64, 8) }),

  /** gpt-oss-20b (arXiv 2508.10925; openai/gpt-oss-20b). All 24 layers. */
  gptOss20b: preset(gptOss(32)),

  /** gpt-oss-120b (arXiv 2508.10925; openai/gpt-oss-120b). All 36 layers. */
  gptOss120b: preset(gptOss(128)),

  /** DBRX, 132B (databricks/dbrx-base). All 40 layers. */
  dbrx: preset({ ...dimensions(6144, 10752, 16, 4), router: { normalize: true } }),

  /** Phi-3.5-MoE, 42B (arXiv 2404.14219; microsoft/Phi-3.5-MoE-instruct). All 32 layers. */
  phi35Moe: preset({
    ...dimensions(4096, 6400, 16, 2),
    router: { score: 'sparsemixer', jitterEps: 0.01 },
  }),

  /**
   * LongCat-Flash, 560B (arXiv 2509.01322; meituan-longcat/LongCat-Flash-Chat). All 28 layers. Of its 768 experts the last 256
   * return their input.
   */
  longcatFlash: preset({
    ...dimensions(6144, 2048, 512, 12),
    identityExperts: 256,
    router: { selectionBias: true, scale: 6 },
  }),

  /** Granite 3.0 and 3.1 3B-A800M (ibm-granite/granite-3.1-3b-a800m-base). All 32 layers. */
  graniteMoe: preset({ ...dimensions(1536, 512, 40, 8), router: { softmaxOver: 'selected' } }),

  /**
   * Nemotron 3 Nano 30B-A3B, a Nemotron-H (nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16). 23 of 52 layers, those marked E in
   * `hybrid_override_pattern`: 1, 3, 6, 8, 10, 13, …, 51.
   */
  nemotron3Nano30bA3b: preset({
    ...dimensions(2688, 1856, 128, 6),
    activation: 'relu2',
    router: selectionBiasedSigmoid(2.5),
    shared: { intermediate: 3712 },
  }),
};

type Dimensions = Pick<MoELayerConfig, 'hidden' | 'intermediate' | 'experts' | 'topK'>;

/** H, I, E, K */
function dimensions(hidden: number, intermediate: number, experts: number, topK: number): Dimensions {
  return { hidden, intermediate, experts, topK };
}

/** Auxiliary-loss-free routing (DeepSeek-V3, arXiv 2412.19437, section 2.1.2). */
function selectionBiasedSigmoid(scale: number): NonNullable<MoELayerConfig['router']> {
  return { score: 'sigmoid', selectionBias: true, normalize: true, normalizeEps: 1e-20, scale };
}

function llama4(experts: number): MoELayerConfig {
  return {
    ...dimensions(5120, 8192, experts, 1),
    router: { score: 'sigmoid' },
    applyWeightTo: 'input',
    shared: { intermediate: 8192 },
  };
}

function gptOss(experts: number): MoELayerConfig {
  return {
    ...dimensions(2880, 2880, experts, 4),
    router: { softmaxOver: 'selected', bias: true },
    activation: 'swiglu_clamped',
    activationLimit: 7,
    activationAlpha: 1.702,
    activationUpShift: 1,
    bias: true,
  };
}

function preset(config: MoELayerConfig): Preset {
  return freeze(config);
}

function freeze<T extends object>(value: T): Readonly<T> {
  for (const part of Object.values(value)) if (typeof part === 'object' && part !== null) freeze(part);
  return Object.freeze(value);
}

/** `T` with every key optional, also within; `undefined` takes a key away. */
export type Overrides<T> = { [K in keyof T]?: T[K] extends object | undefined ? Overrides<T[K]> : T[K] };

/**
 * A preset with some of its values replaced: those of `router` and `shared` one by one, the rest of them kept.
 * @returns frozen, as the preset is
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_DTYPE for a configuration that no layer could have
 */
export function withOverrides(preset: Preset, overrides: Overrides<MoELayerConfig>): Preset {
  if (!isRecord(preset)) throw badArgument('ERR_INVALID_ARGUMENT', 'preset', 'an object', describe(preset));
  if (!isRecord(overrides)) {
    throw badArgument('ERR_INVALID_ARGUMENT', 'overrides', 'an object', describe(overrides));
  }
  const config = merge(preset, overrides) as unknown as MoELayerConfig;
  resolveConfig(config);
  return freeze(config);
}

function merge(base: object, overrides: object): Record<string, unknown> {
  const merged: Record<string, unknown> = { ...base };
  for (const [key, value] of Object.entries(overrides)) {
    const inner = merged[key];
    if (value === undefined) delete merged[key];
    else merged[key] = isRecord(value) ? merge(isRecord(inner) ? inner : {}, value) : value;
  }
  return merged;
}

function isRecord(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
