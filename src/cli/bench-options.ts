// What the options of `moe-kernels bench` ask for.

import {
  type BenchCase,
  checkCaches,
  checkGraph,
  expandSweep,
  type NamedShape,
  parseShapes,
} from '../../bench/campaign.ts';
import { PEER_NAMES } from '../../bench/peers/names.ts';
import type { Peer, ProgramOptions } from '../../bench/peers/peer.ts';
import { peersNamed } from '../../bench/peers/peers.ts';
import { checkTimes, type RoundOptions, withDefaults } from '../../bench/rounds.ts';
import { withRouters, withSkews } from '../../bench/routed-shapes.ts';
import { partsOf } from '../../bench/stages.ts';
import { FEWEST_VALUES } from '../../bench/statistics.ts';
import { ACTIVATIONS } from '../activation.ts';
import { checkInteger, checkOneOf } from '../check.ts';
import { getThreads } from '../device.ts';
import { FLOAT_DTYPES } from '../dtype.ts';
import { checkDevice, type DeviceName } from '../tensor.ts';
import { readPlan } from './bench-plan.ts';
import type { ComparisonOptions } from './comparison.ts';
import { checkPositive, parseCounts, parseList } from './option-values.ts';

/** Options as they stand on the command line. */
export interface BenchCommandOptions extends ComparisonOptions {
  shape: string[];
  activation?: string;
  tokens?: string;
  router?: string;
  skew?: string;
  list?: boolean;
  dtype: string;
  pass?: string;
  stage?: string;
  device: DeviceName;
  tf32?: boolean;
  graph: string;
  threads?: string;
  cache?: string;
  minTime: string;
  maxTime?: string;
  precision: string;
  vs?: string;
  rounds: string;
  python: string;
  ggml?: string;
  out?: string;
  plan?: string;
  csv: boolean;
  json: boolean;
}

/** Those that say what a campaign measures. */
export type CaseOptions = Pick<
  BenchCommandOptions,
  'shape' | 'activation' | 'tokens' | 'router' | 'skew' | 'dtype' | 'pass' | 'device' | 'threads'
> &
  Partial<Pick<BenchCommandOptions, 'stage' | 'tf32' | 'graph' | 'cache' | 'vs'>>;

/** What the user calls an option: by the command line, or by a key of the plan. */
export type NameOf = (option: keyof BenchCommandOptions) => string;

/** The options with those of the plan, if there is one, where the command line does not give them. */
export function withPlan(
  options: BenchCommandOptions,
  isGiven: (option: string) => boolean,
): { options: BenchCommandOptions; nameOf: NameOf } {
  const { plan: path } = options;
  const plan = path === undefined ? [] : [...readPlan(path)].filter(([key]) => !isGiven(key));
  const planned = new Map(plan.map(([key, values]) => [key, key === 'shape' ? values : values.join()]));
  return {
    options: { ...options, ...Object.fromEntries(planned) },
    nameOf: option => (planned.has(option) ? `${path}: ${option}` : `--${option.replace('T', '-t')}`),
  };
}

export function parseCases(options: CaseOptions, nameOf: NameOf): BenchCase[] {
  const { device, threads, tf32 = false, graph = 'off' } = options;
  checkDevice(nameOf('device'), device);
  const names = { pass: nameOf('pass'), stage: nameOf('stage') };
  // Most peers have no backward pass.
  const passes = options.pass ?? (options.vs && !options.stage ? 'forward' : undefined);
  return expandSweep({
    shapes: parseLayers(options.shape, options, nameOf),
    dtypes: parseList(nameOf('dtype'), options.dtype, FLOAT_DTYPES),
    threads: threads === undefined ? [getThreads()] : parseCounts(nameOf('threads'), threads, 1024),
    ...partsOf(names, passes?.split(','), options.stage?.split(',')),
    caches: checkCaches(nameOf('cache'), options.cache?.split(','), options.vs !== undefined),
    ...{ device, tf32, graph: checkGraph(nameOf('graph'), graph, device) },
  });
}

/** What says which layers are measured, in every command that measures. */
export type LayerOptions = Pick<BenchCommandOptions, 'activation' | 'tokens' | 'router' | 'skew'>;

export function parseLayers(
  shapes: readonly string[],
  { tokens, activation, router, skew }: LayerOptions,
  nameOf: NameOf = option => `--${option}`,
): NamedShape[] {
  const sized = parseShapes(nameOf('shape'), shapes, {
    ...(tokens !== undefined && { tokens: parseCounts(nameOf('tokens'), tokens) }),
    ...(activation !== undefined && {
      activation: checkOneOf(nameOf('activation'), activation, ACTIVATIONS),
    }),
  });
  const routed = withRouters(nameOf('router'), sized, router?.split(','));
  return withSkews(nameOf('skew'), routed, skew?.split(','));
}

export function parseRounds(
  { minTime, maxTime, precision }: BenchCommandOptions,
  nameOf: NameOf,
): RoundOptions {
  const milliseconds = (option: 'minTime' | 'maxTime', text: string) =>
    1000 * checkPositive(nameOf(option), text);
  const rounds = withDefaults({
    minTimeMs: milliseconds('minTime', minTime),
    ...(maxTime !== undefined && { maxTimeMs: milliseconds('maxTime', maxTime) }),
    precision: checkPositive(nameOf('precision'), precision),
  });
  checkTimes(rounds, nameOf('maxTime'));
  return rounds;
}

export interface VsOptions extends ProgramOptions {
  readonly peers: readonly Peer[];
  readonly rounds: number;
}

export function parseVs({ vs, rounds, python, ggml }: BenchCommandOptions, nameOf: NameOf): VsOptions {
  return {
    peers: vs === undefined ? [] : peersNamed(parseList(nameOf('vs'), vs, PEER_NAMES)),
    rounds: checkInteger(nameOf('rounds'), Number(rounds), FEWEST_VALUES, 1000),
    ...{ python, ggml },
  };
}
