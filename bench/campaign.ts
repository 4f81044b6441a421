// What a campaign measures: every combination of the values asked for, as cases in the order in which they run.

import type { Activation } from '../src/activation.ts';
import type { FloatDType } from '../src/dtype.ts';
import type { DeviceName } from '../src/tensor.ts';
import { groupBy } from './group-by.ts';
import { type LayerShape, ownActivation, type Pass, parseShape, shapeName } from './shapes.ts';

/** Where a run finds the weights: in memory, or where the run before has left them. */
export const CACHE_MODES = ['cold', 'warm'] as const;
export type CacheMode = (typeof CACHE_MODES)[number];

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
  /** On a GPU always `warm`. */
  readonly cache: CacheMode;
}

export interface Sweep {
  readonly shapes: readonly NamedShape[];
  readonly dtypes: readonly FloatDType[];
  readonly threads: readonly number[];
  readonly passes: readonly Pass[];
  readonly device: DeviceName;
  readonly tf32: boolean;
  readonly caches: readonly CacheMode[];
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
  const { shape, tokens, activation, dtype, pass, device, threads, tf32 } = one;
  const layer = [shape, `T${tokens}`, ...(activation === ownActivation(shape) ? [] : [activation])];
  const count = threads === 1 ? '1 thread' : `${threads} threads`;
  return [
    ...layer,
    dtype,
    ...(tf32 ? ['tf32'] : []),
    pass,
    device,
    count,
    ...(isWarm(one) ? ['warm'] : []),
  ].join(' ');
}

/** Where it could have been cold. */
export function isWarm({ cache, device }: BenchCase): boolean {
  return cache === 'warm' && device === 'cpu';
}

/** The product of a sweep's values; what it names twice counts once. */
export function expandSweep({ shapes, dtypes, threads, passes, device, tf32, caches }: Sweep): BenchCase[] {
  const modes = device === 'cpu' ? caches : (['warm'] as const);
  const cases = shapes.flatMap(shape =>
    dtypes.flatMap(dtype =>
      threads.flatMap(count =>
        passes.flatMap(pass =>
          modes.map(cache => ({
            ...{ ...shape, dtype, device, pass, threads: count, cache },
            ...(tf32 && dtype === 'float32' && device !== 'cpu' && { tf32 }),
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
