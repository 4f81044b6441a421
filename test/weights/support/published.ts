// Layers written out as their models publish them, name by name: what the loader must find its way back from.

import { MoELayer, type Preset } from '../../../src/index.ts';
import { type FileTensors, safetensors } from '../../cli/support/safetensors.ts';
import { encode, type Float } from '../../support/dtypes.ts';
import { seeded } from '../../support/random.ts';
import type { PresetName } from '../../support/shrunk.ts';

export interface Matrix {
  shape: number[];
  values: Float32Array;
}
/** By the layer's own names, or by published ones. */
export type Matrices = { [name: string]: Matrix };
export type Publish = (layer: Matrices, number: number) => Matrices;

/** Parameters of unit scale for a layer of this configuration, by its own names. */
export function randomParameters(config: Preset, seed: number): Matrices {
  const random = seeded(seed);
  const parameters: Matrices = {};
  using layer = new MoELayer(config);
  for (const [name, { shape, size }] of Object.entries(layer.parameters)) {
    const deviation = shape.length === 1 || name.endsWith('_bias') ? 0.5 : 1 / Math.sqrt(shape.at(-1)!);
    parameters[name] = { shape: [...shape], values: random.normals(size, deviation) };
  }
  return parameters;
}

const FILE_DTYPES: Readonly<Record<Float, string>> = { float32: 'F32', bfloat16: 'BF16', float16: 'F16' };

export function stored(matrices: Matrices, dtype: Float): FileTensors {
  const entries = Object.entries(matrices).map(([name, { shape, values }]) => {
    return [name, { dtype: FILE_DTYPES[dtype], shape, data: encode(dtype, values) }];
  });
  return Object.fromEntries(entries);
}

export function checkpointFile(matrices: Matrices, dtype: Float): Buffer {
  return safetensors(stored(matrices, dtype));
}

/** Rows of one expert's matrix (of one expert's vector, its elements). */
function part({ shape, values }: Matrix, expert: number, from = 0, to = shape[1]!): Matrix {
  const [, rows, columns = 1] = shape as [number, number, number?];
  const start = (expert * rows + from) * columns;
  const inner = shape.length === 3 ? [to - from, columns] : [to - from];
  return { shape: inner, values: values.slice(start, start + (to - from) * columns) };
}

function transposed({ shape, values }: Matrix): Matrix {
  const [rows, columns] = shape as [number, number];
  const flipped = new Float32Array(values.length);
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; c++) flipped[c * rows + r] = values[r * columns + c]!;
  return { shape: [columns, rows], values: flipped };
}

/** First half's and second half's rows in turn. */
function alternating({ shape, values }: Matrix): Matrix {
  const [rows, columns = 1] = shape as [number, number?];
  const mixed = Array.from({ length: rows }, (_, r) => {
    const from = (r % 2 === 0 ? r / 2 : rows / 2 + (r - 1) / 2) * columns;
    return [...values.subarray(from, from + columns)];
  });
  return { shape, values: Float32Array.from(mixed.flat()) };
}

/** Every expert's matrix in one tensor. */
function stack(packed: Matrix, change: (expert: Matrix) => Matrix): Matrix {
  const parts = Array.from({ length: packed.shape[0]! }, (_, expert) => change(part(packed, expert)));
  const values = Float32Array.from(parts.flatMap(({ values }) => [...values]));
  return { shape: [parts.length, ...parts[0]!.shape], values };
}

/** [E, a, b] as [E·a, b]. */
function flat({ shape: [experts, rows, columns], values }: Matrix): Matrix {
  return { shape: [experts! * rows!, columns!], values };
}

function gate(packed: Matrix, expert: number): Matrix {
  return part(packed, expert, 0, packed.shape[1]! / 2);
}

function up(packed: Matrix, expert: number): Matrix {
  return part(packed, expert, packed.shape[1]! / 2);
}

function eachExpert(layer: Matrices, write: (expert: number) => Matrices): Matrices {
  const experts = layer['experts.down']!.shape[0]!;
  return Object.assign({}, ...Array.from({ length: experts }, (_, expert) => write(expert)));
}

/** `gate_proj`, `up_proj` and `down_proj`, or by other names, each expert for itself. */
function gatedExperts(
  layer: Matrices,
  prefix: string,
  [g, u, d] = ['gate_proj', 'up_proj', 'down_proj'],
): Matrices {
  const packed = layer['experts.gate_up']!;
  return eachExpert(layer, expert => ({
    [`${prefix}.${expert}.${g}.weight`]: gate(packed, expert),
    [`${prefix}.${expert}.${u}.weight`]: up(packed, expert),
    [`${prefix}.${expert}.${d}.weight`]: part(layer['experts.down']!, expert),
  }));
}

function ungatedExperts(layer: Matrices, prefix: string, [u, d]: [string, string]): Matrices {
  return eachExpert(layer, expert => ({
    [`${prefix}${expert}.${u}.weight`]: part(layer['experts.up']!, expert),
    [`${prefix}${expert}.${d}.weight`]: part(layer['experts.down']!, expert),
  }));
}

function sharedExpert(layer: Matrices, prefix: string): Matrices {
  const gateProjection = layer['shared.gate'] ? { [`${prefix}.gate_proj.weight`]: layer['shared.gate'] } : {};
  return {
    ...gateProjection,
    [`${prefix}.up_proj.weight`]: layer['shared.up']!,
    [`${prefix}.down_proj.weight`]: layer['shared.down']!,
  };
}

const mixtral: Publish = (layer, n) => ({
  [`model.layers.${n}.block_sparse_moe.gate.weight`]: layer['router.weight']!,
  ...gatedExperts(layer, `model.layers.${n}.block_sparse_moe.experts`, ['w1', 'w3', 'w2']),
});

const qwen: Publish = (layer, n) => ({
  [`model.layers.${n}.mlp.gate.weight`]: layer['router.weight']!,
  ...gatedExperts(layer, `model.layers.${n}.mlp.experts`),
});

const qwenShared: Publish = (layer, n) => ({
  ...qwen(layer, n),
  ...sharedExpert(layer, `model.layers.${n}.mlp.shared_expert`),
  [`model.layers.${n}.mlp.shared_expert_gate.weight`]: layer['shared.router']!,
});

const deepseek: Publish = (layer, n) => ({
  ...qwen(layer, n),
  ...sharedExpert(layer, `model.layers.${n}.mlp.shared_experts`),
});

const deepseekV3: Publish = (layer, n) => ({
  ...deepseek(layer, n),
  [`model.layers.${n}.mlp.gate.e_score_correction_bias`]: layer['router.selection_bias']!,
});

const longcat: Publish = (layer, n) => ({
  [`model.layers.${n}.mlp.router.classifier.weight`]: layer['router.weight']!,
  [`model.layers.${n}.mlp.router.e_score_correction_bias`]: layer['router.selection_bias']!,
  ...gatedExperts(layer, `model.layers.${n}.mlp.experts`),
});

const jamba: Publish = (layer, n) => ({
  [`model.layers.${n}.feed_forward.router.weight`]: layer['router.weight']!,
  ...gatedExperts(layer, `model.layers.${n}.feed_forward.experts`),
});

const grok: Publish = (layer, n) => ({
  [`model.layers.${n}.moe_block.gate.weight`]: layer['router.weight']!,
  ...gatedExperts(layer, `model.layers.${n}.moe_block.experts`, ['linear', 'linear_v', 'linear_1']),
});

const nemotron: Publish = (layer, n) => ({
  [`backbone.layers.${n}.mixer.gate.weight`]: layer['router.weight']!,
  [`backbone.layers.${n}.mixer.gate.e_score_correction_bias`]: layer['router.selection_bias']!,
  ...ungatedExperts(layer, `backbone.layers.${n}.mixer.experts.`, ['up_proj', 'down_proj']),
  ...sharedExpert(layer, `backbone.layers.${n}.mixer.shared_experts`),
});

export const switchEncoder: Publish = (layer, n) => ({
  [`encoder.block.${n}.layer.1.mlp.router.classifier.weight`]: layer['router.weight']!,
  ...ungatedExperts(layer, `encoder.block.${n}.layer.1.mlp.experts.expert_`, ['wi', 'wo']),
});

export const switchDecoder: Publish = (layer, n) => ({
  [`decoder.block.${n}.layer.2.mlp.router.classifier.weight`]: layer['router.weight']!,
  ...ungatedExperts(layer, `decoder.block.${n}.layer.2.mlp.experts.expert_`, ['wi', 'wo']),
});

const granite: Publish = (layer, n) => ({
  [`model.layers.${n}.block_sparse_moe.router.layer.weight`]: layer['router.weight']!,
  [`model.layers.${n}.block_sparse_moe.input_linear.weight`]: layer['experts.gate_up']!,
  [`model.layers.${n}.block_sparse_moe.output_linear.weight`]: layer['experts.down']!,
});

const llama4: Publish = (layer, n) => {
  const prefix = `language_model.model.layers.${n}.feed_forward`;
  return {
    [`${prefix}.router.weight`]: layer['router.weight']!,
    [`${prefix}.experts.gate_up_proj`]: stack(layer['experts.gate_up']!, transposed),
    [`${prefix}.experts.down_proj`]: stack(layer['experts.down']!, transposed),
    ...sharedExpert(layer, `${prefix}.shared_expert`),
  };
};

const gptOss: Publish = (layer, n) => {
  const prefix = `model.layers.${n}.mlp`;
  return {
    [`${prefix}.router.weight`]: layer['router.weight']!,
    [`${prefix}.router.bias`]: layer['router.bias']!,
    [`${prefix}.experts.gate_up_proj`]: stack(layer['experts.gate_up']!, matrix =>
      transposed(alternating(matrix)),
    ),
    [`${prefix}.experts.gate_up_proj_bias`]: stack(layer['experts.gate_up_bias']!, alternating),
    [`${prefix}.experts.down_proj`]: stack(layer['experts.down']!, transposed),
    [`${prefix}.experts.down_proj_bias`]: layer['experts.down_bias']!,
  };
};

const dbrx: Publish = (layer, n) => {
  const packed = layer['experts.gate_up']!;
  const half = packed.shape[1]! / 2;
  const prefix = `transformer.blocks.${n}.ffn`;
  return {
    [`${prefix}.router.layer.weight`]: layer['router.weight']!,
    [`${prefix}.experts.mlp.w1`]: flat(stack(packed, matrix => part(stack1(matrix), 0, 0, half))),
    [`${prefix}.experts.mlp.v1`]: flat(stack(packed, matrix => part(stack1(matrix), 0, half))),
    [`${prefix}.experts.mlp.w2`]: flat(stack(layer['experts.down']!, transposed)),
  };
};

/** A matrix as the only expert's. */
function stack1({ shape, values }: Matrix): Matrix {
  return { shape: [1, ...shape], values };
}

/** Models of papers that came without weights. */
type Unpublished = 'glam64B64E' | 'expertChoice8B64E' | 'mixtureOfDepths';
export type PublishedName = Exclude<PresetName, Unpublished>;

/** How each preset's model is published. */
export const PUBLISHED: Readonly<Record<PublishedName, Publish>> = {
  switchBase128: switchEncoder,
  mixtral8x7b: mixtral,
  mixtral8x22b: mixtral,
  grok1: grok,
  deepseekMoe16b: deepseek,
  deepseekV2: deepseek,
  deepseekV2Lite: deepseek,
  deepseekV3,
  jamba,
  llama4Scout: llama4,
  llama4Maverick: llama4,
  qwen3_30bA3b: qwen,
  qwen3_235bA22b: qwen,
  qwen2_57bA14b: qwenShared,
  olmoe: qwen,
  gptOss20b: gptOss,
  gptOss120b: gptOss,
  dbrx,
  phi35Moe: mixtral,
  longcatFlash: longcat,
  graniteMoe: granite,
  nemotron3Nano30bA3b: nemotron,
};
export const PUBLISHED_NAMES = Object.keys(PUBLISHED) as PublishedName[];
