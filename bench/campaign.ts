// What a campaign measures: every combination of the values asked for, as cases in the order in which they run.

import type { Activation } from '../src/activation.ts';
import { checkOneOf } from '../src/check.ts';
import { describe, type FloatDType } from '../src/dtype.ts';
import { badArgument } from '../src/errors.ts';
import type { DeviceName } from '../src/tensor.ts';
import { groupBy } from './group-by.ts';
import { type LayerShape, ownActivation, type Pass, parseShape, shapeName } from './shapes.ts';

/** One thing to measure. */
export interface BenchCase extends LayerShape {
  /** What the shape is called. */
  readonly shape: string;
  readonly dtype: FloatDType;
  readonly device: DeviceName;
  readonly pass: Pass;
  readonly threads: number;
  /** Whether a GPU rounds float32 operands to tf32. */
  readonly tf32?: true;
  /** Whether the pass is launched as a captured graph. */
  readonly graph?: true;
}

/** Passes launched op by op, as captured graphs, or each way. */
export const GRAPHS = ['off', 'on', 'both'] as const;
export type GraphChoice = (typeof GRAPHS)[number];

export interface Sweep {
  readonly shapes: readonly NamedShape[];
  readonly dtypes: readonly FloatDType[];
  readonly threads: readonly number[];
  readonly passes: readonly Pass[];
  readonly device: DeviceName;
  readonly tf32: boolean;
  readonly graph: GraphChoice;
}

export interface NamedShape extends LayerShape {
  readonly shape: string;
}

/**
 * Shapes by name or as `T,H,I,E,K`, each with every number of tokens, or with its own.
 * @param argument what the sentence of an error begins with
 * @throws MoeError ERR_INVALID_ARGUMENT
 */
export function parseShapes(
  argument: string,
  texts: readonly string[],
  { tokens, activation }: { readonly tokens?: readonly number[]; readonly activation?: Activation },
): NamedShape[] {
  return texts.flatMap(text => {
    const given = parseShape(argument, text);
    return (tokens ?? [given.tokens]).map(count => {
      const layer = { ...given, ...(activation && { activation }), tokens: count };
      return { shape: shapeName(text, layer), ...layer };
    });
  });
}

/** Says the same of a case and of its result, in every campaign. */
export function caseKey(one: BenchCase): string {
  const { shape, tokens, activation, dtype, pass, device, threads, tf32, graph } = one;
  const layer = [shape, `T${tokens}`, ...(activation === ownActivation(shape) ? [] : [activation])];
  const count = threads === 1 ? '1 thread' : `${threads} threads`;
  return [
    ...[...layer, dtype, ...(tf32 ? ['tf32'] : []), pass],
    ...[...(graph ? ['graph'] : []), device, count],
  ].join(' ');
}

/**
 * @param argument what the sentence of an error begins with
 * @throws MoeError ERR_INVALID_ARGUMENT, or ERR_UNSUPPORTED where the device launches no graphs
 */
export function checkGraph(argument: string, value: unknown, device: DeviceName): GraphChoice {
  const graph = checkOneOf(argument, value, GRAPHS);
  if (graph !== 'off' && device === 'cpu')
    throw badArgument('ERR_UNSUPPORTED', argument, 'off on cpu, which launches no graphs', describe(graph));
  return graph;
}

/** The product of a sweep's values; what it names twice counts once. */
export function expandSweep({ shapes, dtypes, threads, passes, device, tf32, graph }: Sweep): BenchCase[] {
  const launches = { off: [{}], on: [{ graph: true }], both: [{}, { graph: true }] } as const;
  const cases = shapes.flatMap(shape =>
    dtypes.flatMap(dtype =>
      threads.flatMap(count =>
        passes.flatMap(pass =>
          launches[graph].map(launch => ({
            ...{ ...shape, dtype, device, pass, threads: count },
            ...(tf32 && dtype === 'float32' && device !== 'cpu' && { tf32 }),
            ...launch,
          })),
        ),
      ),
    ),
  );
  return [...new Map(cases.map(one => [caseKey(one), one])).values()];
}

/** Those that one layer of random weights serves, together. */
export function groupByLayer(cases: readonly BenchCase[]): BenchCase[][] {
  return groupBy(cases, ({ shape, tokens, activation, dtype }) =>
    [shape, tokens, activation, dtype].join(' '),
  );
}
