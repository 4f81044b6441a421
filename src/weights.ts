// Weights from disk: one MoE layer of a published checkpoint, in the names and layouts it is published with.

import { checkInteger, checkKeys, checkOneOf } from './check.ts';
import { checkDType, type FloatDType } from './dtype.ts';
import { badArgument } from './errors.ts';
import { MoELayer, type NamedTensors } from './layer.ts';
import { parameterShapes, resolveConfig } from './layer-config.ts';
import type { ExpertLayout } from './ops/experts.ts';
import type { Preset } from './presets.ts';
import { type DeviceName, empty, type Tensor } from './tensor.ts';
import { Checkpoint } from './weights/checkpoint.ts';
import { fill } from './weights/fill.ts';
import { layoutOf, SCHEMES, type SchemeName } from './weights/naming.ts';
import { findNaming, type ParameterPlan, planLayer } from './weights/plan.ts';

export interface LoadExpertsOptions {
  /** Number of the model's layer, as in the tensors' names: from 0, dense layers counted. */
  layer: number;
  /** dtype of the layer. Default: the preset's, or that of the experts on disk, or bfloat16 where they are quantised. */
  dtype?: FloatDType;
  /** Default: the preset's, or `cpu`. */
  device?: DeviceName;
  /** Needed only where the files hold this layer under several names: Switch's encoder and decoder. */
  naming?: SchemeName;
}

/**
 * Loads one MoE layer of a model from safetensors files: its router, experts and shared expert.
 *
 * Tensors are found under the names that models are published with, recognised by the router's, whatever the preset is
 * called. Only this layer's bytes are read, strip by strip, into the memory that the layer then owns. Experts become the
 * layer's dtype, also those published quantised: 8-bit floats in blocks of 128×128 (`weight_scale_inv`, as DeepSeek-V3) and MXFP4
 * (gpt-oss). The router and the biases stay float32 where they are stored in another dtype. Experts keep the layout
 * in which they are published (`gateUpLayout` and `transposed` of the layer's configuration); but DBRX's down projections,
 * which alone of their experts are published transposed, become as their gate and up.
 * @param files a safetensors file, several of them, or an index (`model.safetensors.index.json`) beside its shards
 * @throws MoeError ERR_INVALID_ARGUMENT; ERR_FILE for a file or tensor that is missing, broken, or not what the
 *   configuration needs, naming the file, the tensor, what was expected and what came; ERR_UNSUPPORTED for experts in another
 *   quantised form; ERR_OUT_OF_MEMORY
 */
export async function loadExperts(
  files: string | readonly string[],
  preset: Preset,
  options: LoadExpertsOptions,
): Promise<MoELayer> {
  checkKeys('options', options, ['layer', 'dtype', 'device', 'naming']);
  const layer = checkInteger('options.layer', options.layer, 0);
  if (options.dtype !== undefined) checkDType('options.dtype', options.dtype);
  const asked = { ...preset, dtype: options.dtype ?? preset.dtype, device: options.device ?? preset.device };
  resolveConfig(asked);
  await using checkpoint = await Checkpoint.open(files);
  const naming = checkNaming(options.naming) ?? findNaming(checkpoint, layer);
  const given = { ...asked, ...publishedLayout(naming, preset) };
  const config = resolveConfig(given);
  const plans = await planLayer({ checkpoint, layer, naming }, parameterShapes(config, true), config.experts);
  const down = plans.find(({ name }) => name === 'experts.down')!;
  const dtype = given.dtype ?? down.blocks[0]!.matrix.layerDType;
  return await loadLayer({ ...given, dtype }, plans, dtype);
}

function checkNaming(naming: unknown): SchemeName | undefined {
  if (naming === undefined) return undefined;
  return checkOneOf('options.naming', naming, Object.keys(SCHEMES) as SchemeName[]);
}

/** The layout of the checkpoint, which the preset may name but not change. */
function publishedLayout(naming: SchemeName, preset: Preset): ExpertLayout {
  const layout = layoutOf(naming);
  for (const key of ['gateUpLayout', 'transposed'] as const) {
    if (preset[key] === undefined || preset[key] === layout[key]) continue;
    const expected = `${layout[key]}, as checkpoints named as in ${naming} have it`;
    throw badArgument('ERR_INVALID_ARGUMENT', `preset.${key}`, expected, String(preset[key]));
  }
  return layout;
}

async function loadLayer(
  config: Preset,
  plans: readonly ParameterPlan[],
  dtype: FloatDType,
): Promise<MoELayer> {
  const weights: NamedTensors = {};
  try {
    for (const plan of plans) weights[plan.name] = await loadParameter(plan, dtype, config.device);
    return new MoELayer(config, { weights });
  } catch (error) {
    for (const weight of Object.values(weights)) weight.dispose();
    throw error;
  }
}

async function loadParameter(
  { name, shape, blocks }: ParameterPlan,
  layerDType: FloatDType,
  device: DeviceName | undefined,
): Promise<Tensor> {
  const same = blocks.every(({ matrix }) => matrix.dtype === layerDType);
  const dtype = mayBeWide(name) && (!same || name === 'router.selection_bias') ? 'float32' : layerDType;
  const parameter = empty(shape, { dtype, device });
  try {
    await fill(parameter, blocks);
    return parameter;
  } catch (error) {
    parameter.dispose();
    throw error;
  }
}

/** What a layer takes in float32 beside its own dtype. */
function mayBeWide(name: string): boolean {
  return name.startsWith('router.') || name.endsWith('_bias');
}
