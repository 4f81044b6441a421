// Which tensors of a checkpoint make up a layer's parameters, and where each of their matrices goes. Everything that a
// header can tell is checked here, before a single element is read.

import type { FloatDType } from '../dtype.ts';
import { badArgument, MoeError } from '../errors.ts';
import { fileError, type SafetensorsDType } from '../safetensors.ts';
import { elementCount } from '../tensor.ts';
import type { Checkpoint, StoredTensor } from './checkpoint.ts';
import {
  isPerExpert,
  layoutOf,
  type Part,
  SCHEMES,
  type Scheme,
  type SchemeName,
  type Source,
  tensorName,
} from './naming.ts';

/** One matrix in a checkpoint and its place in a parameter, in the layout of both or transposed. A vector has one column. */
export interface Block {
  readonly tensor: StoredTensor;
  readonly dtype: FloatDType;
  /** The matrix's first element within its tensor. */
  readonly start: number;
  /** Rows in the parameter. */
  readonly rows: number;
  readonly columns: number;
  readonly transposed: boolean;
  /** Where its first row goes: an element of the parameter. */
  readonly at: number;
}

export interface ParameterPlan {
  readonly name: string;
  readonly shape: readonly number[];
  readonly blocks: readonly Block[];
}

export interface LayerPlace {
  readonly checkpoint: Checkpoint;
  readonly layer: number;
  readonly naming: SchemeName;
}

const DTYPES: Readonly<Partial<Record<SafetensorsDType, FloatDType>>> = {
  F32: 'float32',
  F16: 'float16',
  BF16: 'bfloat16',
};

/** The scheme by whose name for the router the checkpoint holds one in this layer. */
export function findNaming(checkpoint: Checkpoint, layer: number): SchemeName {
  const known = Object.keys(SCHEMES) as SchemeName[];
  const found = known.filter(naming => {
    const scheme: Scheme = SCHEMES[naming];
    return scheme['router.weight'].names.some(name => checkpoint.has(tensorName(name, layer, 0)));
  });
  if (found.length === 1) return found[0]!;
  if (found.length === 0) {
    throw fileError(checkpoint.path, `layer ${layer}`, `a router named as in ${known.join(', ')}`, 'none');
  }
  const expected = `one of ${found.join(', ')}, for ${checkpoint.path} holds layer ${layer} of each`;
  throw badArgument('ERR_INVALID_ARGUMENT', 'options.naming', expected, 'undefined');
}

/**
 * @param shapes of the parameters, by name, in the layout of {@link layoutOf}
 * @throws MoeError ERR_FILE for a tensor that is missing, of another shape or dtype, or that the layer would leave out;
 *   ERR_UNSUPPORTED for MXFP4 experts; ERR_INVALID_ARGUMENT for a parameter that such checkpoints do not have
 */
export async function planLayer(
  place: LayerPlace,
  shapes: Readonly<Record<string, readonly number[]>>,
  experts: number,
): Promise<ParameterPlan[]> {
  const scheme: Scheme = SCHEMES[place.naming];
  const used = new Set<Part>();
  const plans: ParameterPlan[] = [];
  for (const [name, shape] of Object.entries(shapes)) {
    const sources: Source[] = [];
    for (const part of partsOf(scheme, name)) {
      const source = scheme[part];
      if (source === undefined) throw notPublished(place, name);
      sources.push(source);
      used.add(part);
    }
    plans.push({ name, shape, blocks: await findBlocks(place, sources, name, shape) });
  }
  refuseLeftovers(place, scheme, used, experts);
  return plans;
}

/** A packed parameter is made of its halves where they are published apart. */
function partsOf(scheme: Scheme, parameter: string): Part[] {
  const apart = parameter === 'experts.gate_up' && scheme['experts.gate_up'] === undefined;
  return apart ? ['experts.gate', 'experts.up'] : [parameter as Part];
}

/** The matrices of a parameter in its order: expert by expert, and the sources' in turn within each. */
async function findBlocks(
  place: LayerPlace,
  sources: readonly Source[],
  parameter: string,
  shape: readonly number[],
): Promise<Block[]> {
  const ofExperts = parameter.startsWith('experts.');
  const [count, [rows, ...columns]] = ofExperts ? [shape[0]!, shape.slice(1)] : [undefined, shape];
  const matrix = [rows! / sources.length, ...columns];
  const blocks: Block[] = [];
  for (let expert = 0; expert < (count ?? 1); expert++) {
    for (const source of sources) {
      const at = blocks.length * elementCount(matrix);
      blocks.push(await findBlock(place, source, { matrix, expert, count, at }));
    }
  }
  return blocks;
}

interface BlockPlace {
  /** [rows, columns] or [rows] */
  readonly matrix: readonly number[];
  readonly expert: number;
  /** E, for a parameter of the experts. */
  readonly count: number | undefined;
  readonly at: number;
}

async function findBlock(
  place: LayerPlace,
  source: Source,
  { matrix, expert, count, at }: BlockPlace,
): Promise<Block> {
  const { flat = false } = source;
  const transposed = (source.transposed ?? false) && !layoutOf(place.naming).transposed;
  const [rows, columns = 1] = matrix as [number, number?];
  const stored = transposed ? [...matrix].reverse() : [...matrix];
  const together = count !== undefined && !isPerExpert(source);
  if (together && flat) stored[0]! *= count;
  else if (together) stored.unshift(count);
  const tensor = await findTensor(place, source, expert);
  const dtype = checkStored(tensor, stored);
  const start = together ? expert * rows * columns : 0;
  return { tensor, dtype, start, rows, columns, transposed, at };
}

async function findTensor(
  { checkpoint, layer }: LayerPlace,
  source: Source,
  expert: number,
): Promise<StoredTensor> {
  const names = source.names.map(template => tensorName(template, layer, expert));
  const name = names.find(name => checkpoint.has(name)) ?? names[0]!;
  if (!checkpoint.has(name) && checkpoint.has(`${name}_blocks`)) {
    throw new MoeError(
      'ERR_UNSUPPORTED',
      `${checkpoint.path}: ${name}: expected float32, float16 or bfloat16, got MXFP4 (${name}_blocks)`,
    );
  }
  return await checkpoint.find(name);
}

function checkStored({ file, name, entry }: StoredTensor, shape: readonly number[]): FloatDType {
  if (entry.shape.join() !== shape.join()) {
    throw fileError(file.path, name, `shape [${shape.join(', ')}]`, `[${entry.shape.join(', ')}]`);
  }
  const dtype = DTYPES[entry.dtype];
  if (dtype === undefined) {
    throw fileError(file.path, name, `dtype ${Object.keys(DTYPES).join(', ')}`, entry.dtype);
  }
  return dtype;
}

function notPublished({ naming }: LayerPlace, parameter: string): MoeError {
  const expected = `only parameters that checkpoints named as in ${naming} have`;
  return badArgument('ERR_INVALID_ARGUMENT', 'preset', expected, parameter);
}

/** A tensor of the layer that no parameter takes would be a part of the model that is silently left out. */
function refuseLeftovers(
  { checkpoint, layer }: LayerPlace,
  scheme: Scheme,
  used: ReadonlySet<Part>,
  experts: number,
): void {
  for (const [part, source] of Object.entries(scheme) as [Part, Source][]) {
    const next = !used.has(part) ? 0 : isPerExpert(source) ? experts : undefined;
    if (next === undefined) continue;
    for (const template of source.names) {
      const name = tensorName(template, layer, next);
      if (!checkpoint.has(name)) continue;
      const expected = next === 0 ? `none, for the configuration has no ${part}` : `${experts} experts`;
      throw fileError(checkpoint.path, name, expected, 'a tensor of this name');
    }
  }
}
