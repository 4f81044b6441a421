// How published checkpoints name and lay out an MoE layer's parameters: a table with one row per family of names. A scheme
// maps a parameter to the tensors it is made of; what the tensors hold is said by their shapes alone.
// Names are those of the models' code in transformers, of Megatron Bridge (Nemotron-H) and of vLLM (Grok-1).

import type { ExpertLayout } from '../ops/experts.ts';

/** Where a parameter's matrices come from. A template's `{layer}` and `{expert}` stand for their numbers. */
export interface Source {
  /** The published name, or the names of which a checkpoint has one. Without `{expert}`, one tensor holds all experts. */
  readonly names: readonly string[];
  /** Each matrix lies as [columns, rows]. */
  readonly transposed?: boolean;
  /** Gate and up rows (columns, where transposed) alternate, gate first; and so do their biases. */
  readonly interleaved?: boolean;
  /** The experts' axis is one with the rows': [E·rows, columns]. */
  readonly flat?: boolean;
  /** Elements are 4-bit floats: the names are of their blocks, beside which lie scales. */
  readonly mxfp4?: boolean;
}

/** A part of a layer: a parameter by its published name, or a half of a packed one (`experts.gate` of `experts.gate_up`). */
export type Part =
  | `router.${'weight' | 'bias' | 'selection_bias'}`
  | `experts.${'gate' | 'up' | 'gate_up' | 'down' | 'gate_up_bias' | 'down_bias'}`
  | `shared.${'gate' | 'up' | 'down' | 'router'}`;

export type Scheme = Readonly<
  Partial<Record<Part, Source>> & Record<'router.weight' | 'experts.down', Source>
>;

function source(...names: string[]): Source {
  return { names };
}

/** Linear layers called `gate`, `up` and `down`, one set per expert. */
function perExpert(prefix: string, gate: string, up: string, down: string) {
  return {
    'experts.gate': source(`${prefix}.${gate}.weight`),
    'experts.up': source(`${prefix}.${up}.weight`),
    'experts.down': source(`${prefix}.${down}.weight`),
  };
}

function switchTransformer(mlp: string): Scheme {
  return {
    'router.weight': source(`${mlp}.router.classifier.weight`),
    'router.bias': source(`${mlp}.router.classifier.bias`),
    'experts.up': source(`${mlp}.experts.expert_{expert}.wi.weight`),
    'experts.down': source(`${mlp}.experts.expert_{expert}.wo.weight`),
  };
}

/** The released weights are 4-bit, in blocks along the inputs; in bfloat16 they are published transposed. */
function gptOss(gateUp: Source, down: Source) {
  return {
    'router.weight': source(`${MLP}.router.weight`),
    'router.bias': source(`${MLP}.router.bias`),
    'experts.gate_up': { ...gateUp, interleaved: true },
    'experts.gate_up_bias': source(`${MLP}.experts.gate_up_proj_bias`),
    'experts.down': down,
    'experts.down_bias': source(`${MLP}.experts.down_proj_bias`),
  };
}

const PROJECTIONS = ['gate_proj', 'up_proj', 'down_proj'] as const;
const MLP = 'model.layers.{layer}.mlp';
const SPARSE = 'model.layers.{layer}.block_sparse_moe';
const GROK = 'model.layers.{layer}.moe_block';
const JAMBA = 'model.layers.{layer}.feed_forward';
const LLAMA4 = 'language_model.model.layers.{layer}.feed_forward';
const DBRX = 'transformer.blocks.{layer}.ffn';
const NEMOTRON = 'backbone.layers.{layer}.mixer';

export const SCHEMES = {
  /** Mixtral, Phi-3.5-MoE. */
  mixtral: {
    'router.weight': source(`${SPARSE}.gate.weight`),
    ...perExpert(`${SPARSE}.experts.{expert}`, 'w1', 'w3', 'w2'),
  },
  /** DeepSeek (`shared_experts`), Qwen (`shared_expert`), OLMoE. */
  deepseekQwen: {
    'router.weight': source(`${MLP}.gate.weight`),
    'router.selection_bias': source(`${MLP}.gate.e_score_correction_bias`),
    ...perExpert(`${MLP}.experts.{expert}`, ...PROJECTIONS),
    'shared.gate': source(`${MLP}.shared_experts.gate_proj.weight`, `${MLP}.shared_expert.gate_proj.weight`),
    'shared.up': source(`${MLP}.shared_experts.up_proj.weight`, `${MLP}.shared_expert.up_proj.weight`),
    'shared.down': source(`${MLP}.shared_experts.down_proj.weight`, `${MLP}.shared_expert.down_proj.weight`),
    'shared.router': source(`${MLP}.shared_expert_gate.weight`),
  },
  longcat: {
    'router.weight': source(`${MLP}.router.classifier.weight`),
    'router.bias': source(`${MLP}.router.classifier.bias`),
    'router.selection_bias': source(`${MLP}.router.e_score_correction_bias`),
    ...perExpert(`${MLP}.experts.{expert}`, ...PROJECTIONS),
  },
  jamba: {
    'router.weight': source(`${JAMBA}.router.weight`),
    ...perExpert(`${JAMBA}.experts.{expert}`, ...PROJECTIONS),
  },
  grok: {
    'router.weight': source(`${GROK}.gate.weight`),
    ...perExpert(`${GROK}.experts.{expert}`, 'linear', 'linear_v', 'linear_1'),
  },
  nemotronH: {
    'router.weight': source(`${NEMOTRON}.gate.weight`),
    'router.selection_bias': source(`${NEMOTRON}.gate.e_score_correction_bias`),
    'experts.up': source(`${NEMOTRON}.experts.{expert}.up_proj.weight`),
    'experts.down': source(`${NEMOTRON}.experts.{expert}.down_proj.weight`),
    'shared.up': source(`${NEMOTRON}.shared_experts.up_proj.weight`),
    'shared.down': source(`${NEMOTRON}.shared_experts.down_proj.weight`),
  },
  switchEncoder: switchTransformer('encoder.block.{layer}.layer.1.mlp'),
  switchDecoder: switchTransformer('decoder.block.{layer}.layer.2.mlp'),
  granite: {
    'router.weight': source(`${SPARSE}.router.layer.weight`),
    'experts.gate_up': source(`${SPARSE}.input_linear.weight`),
    'experts.down': source(`${SPARSE}.output_linear.weight`),
  },
  llama4: {
    'router.weight': source(`${LLAMA4}.router.weight`),
    'experts.gate_up': { names: [`${LLAMA4}.experts.gate_up_proj`], transposed: true },
    'experts.down': { names: [`${LLAMA4}.experts.down_proj`], transposed: true },
    'shared.gate': source(`${LLAMA4}.shared_expert.gate_proj.weight`),
    'shared.up': source(`${LLAMA4}.shared_expert.up_proj.weight`),
    'shared.down': source(`${LLAMA4}.shared_expert.down_proj.weight`),
  },
  gptOss: gptOss(
    { names: [`${MLP}.experts.gate_up_proj`], transposed: true },
    { names: [`${MLP}.experts.down_proj`], transposed: true },
  ),
  gptOssMxfp4: gptOss(
    { names: [`${MLP}.experts.gate_up_proj_blocks`], mxfp4: true },
    { names: [`${MLP}.experts.down_proj_blocks`], mxfp4: true },
  ),
  dbrx: {
    'router.weight': source(`${DBRX}.router.layer.weight`),
    'experts.gate': { names: [`${DBRX}.experts.mlp.w1`], flat: true },
    'experts.up': { names: [`${DBRX}.experts.mlp.v1`], flat: true },
    'experts.down': { names: [`${DBRX}.experts.mlp.w2`], flat: true, transposed: true },
  },
} as const satisfies Record<string, Scheme>;

export type SchemeName = keyof typeof SCHEMES;

export function tensorName(template: string, layer: number, expert: number): string {
  return template.replace('{layer}', String(layer)).replace('{expert}', String(expert));
}

/** How a layer's experts lie when they are kept as they are published: transposed where all of their matrices are. */
export function layoutOf(naming: SchemeName): Required<ExpertLayout> {
  const scheme: Scheme = SCHEMES[naming];
  const matrices = (['gate_up', 'gate', 'up', 'down'] as const)
    .map(name => scheme[`experts.${name}`])
    .filter(source => source !== undefined);
  return {
    gateUpLayout: scheme['experts.gate_up']?.interleaved ? 'interleaved' : 'concatenated',
    transposed: matrices.every(source => source.transposed),
  };
}

export function isPerExpert({ names }: Source): boolean {
  return names[0]!.includes('{expert}');
}
