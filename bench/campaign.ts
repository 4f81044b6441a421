// What a campaign measures: every combination of the values asked for, as cases in the order in which they run.

import type { Activation } from '../src/activation.ts';
import { checkOneOf } from '../src/check.ts';
import { describe, type FloatDType } from '../src/dtype.ts';
import { badArgument } from '../src/errors.ts';
import type { DeviceName } from '../src/tensor.ts';
import { partName } from './describe-layer.ts';
import { groupBy } from './group-by.ts';
import type { RouterName } from './layer-design.ts';
import { type LayerShape, ownActivation, type Pass, parseShape, shapeName } from './shapes.ts';
import { passOf, type Stage } from './stages.ts';

/** Where a run finds the weights: in memory, or where the run before has left them. */
export const CACHE_MODES = ['cold', 'warm'] as const;
export type CacheMode = (typeof CACHE_MODES)[number];

/** One thing to measure. */
export interface BenchCase extends NamedShape {
  readonly dtype: FloatDType;
  readonly device: DeviceName;
  /** Of a stage: what it is part of. */
  readonly pass: Pass;
  /** One op of the layer, where it is not the whole that is measured. */
  readonly stage?: Stage;
  readonly threads: number;
  /** Whether a GPU rounds float32 operands to tf32. */
  readonly tf32?: true;
  /** Whether the pass is launched as a captured graph. */
  readonly graph?: true;
  readonly cache: CacheMode;
}

/** Passes launched op by op, as captured graphs, or each way. */
export const GRAPHS = ['off', 'on', 'both'] as const;
export type GraphChoice = (typeof GRAPHS)[number];

export interface Sweep {
  readonly shapes: readonly NamedShape[];
  readonly dtypes: readonly FloatDType[];
  readonly threads: readonly number[];
  readonly passes: readonly Pass[];
  /** Instead of passes. */
  readonly stages?: readonly Stage[];
  readonly device: DeviceName;
  readonly tf32: boolean;
  readonly graph: GraphChoice;
  readonly caches: readonly CacheMode[];
}

/** A shape with its name, and how it is routed. */
export interface NamedShape extends LayerShape {
  /** What the shape is called. */
  readonly shape: string;
  /** Unless it is the shape's own. */
  readonly router?: RouterName;
  /** How rows are distributed over experts, unless that is left to the router. */
  readonly skew?: string;
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
export function caseKey(one: Omit<BenchCase, 'cache'> & Partial<Pick<BenchCase, 'cache'>>): string {
  const { shape, tokens, activation, router, skew, dtype, device, threads, tf32 } = one;
  const layer = [
    ...[shape, `T${tokens}`, ...(activation === ownActivation(shape) ? [] : [activation])],
    ...[router, skew].filter(part => part !== undefined),
  ];
  const count = threads === 1 ? '1 thread' : `${threads} threads`;
  return [
    ...[...layer, dtype, ...(tf32 ? ['tf32'] : []), partName(one), device, count],
    ...(one.cache === 'warm' ? ['warm'] : []),
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

/**
 * Unless said, `warm` beside peers, which have one copy of the layer, and `cold` otherwise.
 * @param argument what the sentence of an error begins with
 * @throws MoeError ERR_INVALID_ARGUMENT, or ERR_UNSUPPORTED for another mode beside peers
 */
export function checkCaches(
  argument: string,
  modes: readonly unknown[] | undefined,
  besidePeers: boolean,
): CacheMode[] {
  const caches = modes?.map(mode => checkOneOf(argument, mode, CACHE_MODES));
  if (besidePeers && caches?.includes('cold')) {
    const expected = 'warm beside peers, which have one copy of the layer';
    throw badArgument('ERR_UNSUPPORTED', argument, expected, caches.join());
  }
  return caches ?? [besidePeers ? 'warm' : 'cold'];
}

const LAUNCHES = { off: [{}], on: [{ graph: true }], both: [{}, { graph: true }] } as const;

/** The product of a sweep's values; what it names twice counts once. */
export function expandSweep(sweep: Sweep): BenchCase[] {
  const { shapes, dtypes, threads, passes, stages, device, tf32, graph, caches } = sweep;
  const parts = stages?.map(stage => ({ pass: passOf(stage), stage })) ?? passes.map(pass => ({ pass }));
  const cases = shapes.flatMap(shape =>
    dtypes.flatMap(dtype =>
      threads.flatMap(count =>
        parts.flatMap(part =>
          caches.flatMap(cache =>
            LAUNCHES[graph].map(launch => ({
              ...{ ...shape, dtype, device, ...part, threads: count, cache },
              ...(tf32 && dtype === 'float32' && device !== 'cpu' && { tf32 }),
              ...launch,
            })),
          ),
        ),
      ),
    ),
  );
  return [...new Map(cases.map(one => [caseKey(one), one])).values()];
}

/** Those that one layer of random weights serves, together. */
export function groupByLayer(cases: readonly BenchCase[]): BenchCase[][] {
  return groupBy(cases, ({ shape, tokens, activation, router, skew, dtype }) =>
    [shape, tokens, activation, router, skew, dtype].join(' '),
  );
}
