// `moe-kernels/bench`: what `moe-kernels bench` measures, from a program.

import { ACTIVATIONS, type Activation } from '../src/activation.ts';
import { checkInteger, checkOneOf } from '../src/check.ts';
import { getFloat32Matmul, getThreads, setThreads } from '../src/device.ts';
import { describe, FLOAT_DTYPES, type FloatDType } from '../src/dtype.ts';
import { badArgument } from '../src/errors.ts';
import { checkDevice, type DeviceName } from '../src/tensor.ts';
import {
  type BenchCase,
  CACHE_MODES,
  type CacheMode,
  checkGraph,
  expandSweep,
  type GraphChoice,
  groupByLayer,
  parseShapes,
} from './campaign.ts';
import type { BenchResult } from './result.ts';
import { checkTimes, type RoundOptions, withDefaults } from './rounds.ts';
import { type RouterChoice, withRouters, withSkews } from './routed-shapes.ts';
import { checkLayerFits, runBench } from './run.ts';
import type { Pass } from './shapes.ts';
import { partsOf, type Stage } from './stages.ts';

export type { BenchResult } from './result.ts';
export type { RouterChoice } from './routed-shapes.ts';
export { WrongResult } from './run.ts';
export type { LayerShape, Pass } from './shapes.ts';
export type { Stage } from './stages.ts';
export type { BenchCase, CacheMode, DeviceName, FloatDType, GraphChoice };

/** Every combination of these is measured. */
export interface BenchRequest {
  /**
   * By name (`mixtral-mini`, `deepseek-mini`, `qwen3-mini`, `switch-mini`, or a model's layer as `moe-kernels bench --list` has them:
   * `mixtral-8x7b`, `mixtral-8x7b:decode`, …) or as `T,H,I,E,K`. Default `mixtral-mini`.
   */
  readonly shapes?: readonly string[];
  /** Instead of the shapes' own numbers of tokens. */
  readonly tokens?: readonly number[];
  /** Instead of the shapes' own. */
  readonly activation?: Activation;
  /** Instead of the shapes' own, which is `own`. */
  readonly routers?: readonly RouterChoice[];
  /** `router` (default: its choice of random tokens), `uniform`, `zipf:S`, `one-hot` or `trace:FILE`: the load of the experts. */
  readonly skews?: readonly string[];
  /** Default float32. */
  readonly dtypes?: readonly FloatDType[];
  /** Default `both`: forward, saving for backward, and backward. */
  readonly passes?: readonly Pass[];
  /** Single ops of the layer, instead of passes. */
  readonly stages?: readonly Stage[];
  /** Threads of the CPU backend. Default as {@link setThreads} left them, as they are again afterwards. */
  readonly threads?: readonly number[];
  /** Default `cpu`. */
  readonly device?: DeviceName;
  /** On a GPU: whether a pass is launched op by op, as a captured graph (`on`), or each way (`both`). Default `off`. */
  readonly graph?: GraphChoice;
  /**
   * `cold`: copies of the layer by turns, so that weights come from memory; `warm`: from where the run before has left them.
   * Default `cold`. On a GPU always `warm`.
   */
  readonly caches?: readonly CacheMode[];
  /** Milliseconds that the runs of a case take together at least. Default 2000. */
  readonly minTimeMs?: number;
  /** Milliseconds after which a case ends, precise or not. Default five times the least. */
  readonly maxTimeMs?: number;
  /** The width of a median's interval to reach, in percent of the median. Default 2. */
  readonly precision?: number;
}

/**
 * Checks layers of random weights against the float64 reference, then times them: a result for each case, as soon as it is there.
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_UNSUPPORTED or ERR_OUT_OF_MEMORY at the call; WrongResult while iterating
 */
export function bench(request: BenchRequest = {}): AsyncGenerator<BenchResult> {
  const asked = withDefaults(request);
  for (const [name, value] of Object.entries(asked))
    if (!(value > 0 && value < Infinity))
      throw badArgument('ERR_INVALID_ARGUMENT', name, 'a positive number', describe(value));
  checkTimes(asked, 'maxTimeMs');
  const layers = groupByLayer(casesOf(request));
  for (const layer of layers) checkLayerFits(layer);
  return measureLayers(layers, asked);
}

function casesOf(request: BenchRequest): BenchCase[] {
  const { shapes = ['mixtral-mini'], tokens, activation, routers, skews, device = 'cpu' } = request;
  const { dtypes = ['float32'], passes, stages, threads = [getThreads()] } = request;
  const { caches = ['cold'], graph = 'off' } = request;
  checkDevice('device', device);
  const sized = parseShapes('shapes', shapes, {
    ...(tokens && { tokens: tokens.map(count => checkInteger('tokens', count, 1)) }),
    ...(activation !== undefined && { activation: checkOneOf('activation', activation, ACTIVATIONS) }),
  });
  return expandSweep({
    shapes: withSkews('skews', withRouters('routers', sized, routers), skews),
    dtypes: dtypes.map(dtype => checkOneOf('dtypes', dtype, FLOAT_DTYPES)),
    threads: threads.map(count => checkInteger('threads', count, 1, 1024)),
    ...partsOf({ pass: 'passes', stage: 'stages' }, passes, stages),
    caches: caches.map(mode => checkOneOf('caches', mode, CACHE_MODES)),
    device,
    tf32: getFloat32Matmul() === 'tf32',
    graph: checkGraph('graph', graph, device),
  });
}

async function* measureLayers(
  layers: readonly BenchCase[][],
  options: RoundOptions,
): AsyncGenerator<BenchResult> {
  const threads = getThreads();
  try {
    for (const layer of layers) yield* runBench(layer, options);
  } finally {
    setThreads(threads);
  }
}
