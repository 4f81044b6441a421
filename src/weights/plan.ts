// Which tensors of a checkpoint make up a layer's parameters, and where each of their matrices goes. Everything that a
// header can tell is checked here, before a single element is read.

import { badArgument, type MoeError } from '../errors.ts';
import { fileError } from '../safetensors.ts';
import { elementCount } from '../tensor.ts';
import type { Checkpoint } from './checkpoint.ts';
import type { Block } from './fill.ts';
import { transposed } from './matrix.ts';
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
import { findMatrix } from './stored.ts';

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

/** The scheme by whose names the checkpoint holds a router in this layer; and experts, where schemes share the router's name. */
export function findNaming(checkpoint: Checkpoint, layer: number): SchemeName {
  let found = Object.keys(SCHEMES) as SchemeName[];
  for (const [part, what] of [
    ['router.weight', 'a router'],
    ['experts.down', 'experts'],
  ] as const) {
    const held = found.filter(naming => {
      const scheme: Scheme = SCHEMES[naming];
      return scheme[part].names.some(name => checkpoint.has(tensorName(name, layer, 0)));
    });
    if (held.length === 1) return held[0]!;
    if (held.length === 0) {
      throw fileError(checkpoint.path, `layer ${layer}`, `${what} named as in ${found.join(', ')}`, 'none');
    }
    found = held;
  }
  const expected = `one of ${found.join(', ')}, for ${checkpoint.path} holds layer ${layer} of each`;
  throw badArgument('ERR_INVALID_ARGUMENT', 'options.naming', expected, 'undefined');
}

/**
 * @param shapes of the parameters, by name, in the layout of {@link layoutOf}
 * @throws MoeError ERR_FILE for a tensor that is missing, of another shape or dtype, or that the layer would leave out;
 *   ERR_UNSUPPORTED for an unknown quantised form; ERR_INVALID_ARGUMENT for a parameter that such checkpoints do not have
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
  { checkpoint, layer, naming }: LayerPlace,
  source: Source,
  { matrix, expert, count, at }: BlockPlace,
): Promise<Block> {
  const { flat = false, mxfp4 = false } = source;
  const turn = source.transposed === true && !layoutOf(naming).transposed;
  const names = source.names.map(template => tensorName(template, layer, expert));
  const together = count !== undefined && !isPerExpert(source);
  const stored = await findMatrix(checkpoint, {
    name: names.find(name => checkpoint.has(name)) ?? names[0]!,
    mxfp4,
    matrix: turn ? [...matrix].reverse() : matrix,
    stack: together ? { count, index: expert, flat } : undefined,
  });
  return { matrix: turn ? transposed(stored) : stored, at };
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
