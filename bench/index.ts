// `moe-kernels/bench`: what `moe-kernels bench` measures, from a program.

import { ACTIVATIONS, type Activation } from '../src/activation.ts';
import { checkInteger, checkOneOf } from '../src/check.ts';
import { getFloat32Matmul, getThreads, setThreads } from '../src/device.ts';
import { describe, FLOAT_DTYPES, type FloatDType } from '../src/dtype.ts';
import { badArgument } from '../src/errors.ts';
import { checkDevice, type DeviceName } from '../src/tensor.ts';
import {
  type BenchCase,
  type CacheMode,
  checkCaches,
  checkGraph,
  expandSweep,
  type GraphChoice,
  groupByLayer,
  parseShapes,
} from './campaign.ts';
import { PEER_NAMES, type PeerName } from './peers/names.ts';
import { describeFailure, peersNamed, preparePeers } from './peers/peers.ts';
import type { BenchResult } from './result.ts';
import { checkTimes, type RoundOptions, withDefaults } from './rounds.ts';
import { type RouterChoice, withRouters, withSkews } from './routed-shapes.ts';
import { type BenchOptions, checkLayerFits, runBench } from './run.ts';
import type { Pass } from './shapes.ts';
import { partsOf, type Stage } from './stages.ts';
import { FEWEST_VALUES } from './statistics.ts';

export type { PeerResult } from './peers/race.ts';
export type { BenchResult } from './result.ts';
export type { RouterChoice } from './routed-shapes.ts';
export { WrongResult } from './run.ts';
export type { LayerShape, Pass } from './shapes.ts';
export type { Stage } from './stages.ts';
export type { BenchCase, CacheMode, DeviceName, FloatDType, GraphChoice, PeerName };

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
  /** Default `both`: forward, saving for backward, and backward; with `vs`, for most peers have no more, `forward`. */
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
  /**
   * Other implementations that take turns with ours, each in a process of its own: `vs` of each result that any could do. What a
   * package lacks is fetched from the npm registry into the user's cache.
   */
  readonly vs?: readonly PeerName[];
  /** Turns of each, with `vs`. Default 15. */
  readonly rounds?: number;
  /** A Python interpreter that has torch, with `vs` of it. Default `python3`. */
  readonly python?: string;
  /** A checkout of ggml to build against, with `vs` of it. */
  readonly ggml?: string;
  /** Told of what is fetched, and why a peer is left out or runs in another dtype. Default: a line on stderr. */
  readonly onNote?: (note: string) => void;
}

/**
 * Checks layers of random weights against the float64 reference, then times them: a result for each case, as soon as it is there.
 * @throws MoeError ERR_INVALID_ARGUMENT, ERR_UNSUPPORTED or ERR_OUT_OF_MEMORY at the call; while iterating WrongResult, and MoeError
 *   ERR_UNSUPPORTED for a peer that is not here
 */
export function bench(request: BenchRequest = {}): AsyncGenerator<BenchResult> {
  const asked = withDefaults(request);
  for (const [name, value] of Object.entries(asked))
    if (!(value > 0 && value < Infinity))
      throw badArgument('ERR_INVALID_ARGUMENT', name, 'a positive number', describe(value));
  checkTimes(asked, 'maxTimeMs');
  const layers = groupByLayer(casesOf(request));
  for (const layer of layers) checkLayerFits(layer);
  return measureLayers(layers, asked, vsOf(request));
}

function vsOf(request: BenchRequest) {
  const { vs = [], rounds = 15, python = 'python3', ggml } = request;
  const { onNote: say = note => process.stderr.write(`moe-kernels: ${note}\n`) } = request;
  return {
    peers: peersNamed(vs.map(name => checkOneOf('vs', name, PEER_NAMES))),
    rounds: checkInteger('rounds', rounds, FEWEST_VALUES, 1000),
    ...{ python, ggml, say },
    onFailure: failure => say(describeFailure(failure)),
  } satisfies BenchOptions['vs'] & object;
}

function casesOf(request: BenchRequest): BenchCase[] {
  const { shapes = ['mixtral-mini'], tokens, activation, routers, skews, device = 'cpu' } = request;
  const { dtypes = ['float32'], stages, threads = [getThreads()], graph = 'off', vs = [] } = request;
  const beside = vs.length > 0;
  const { passes = beside && !stages ? ['forward'] : undefined } = request;
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
    caches: checkCaches('caches', request.caches, beside),
    device,
    tf32: getFloat32Matmul() === 'tf32',
    graph: checkGraph('graph', graph, device),
  });
}

async function* measureLayers(
  layers: readonly BenchCase[][],
  options: RoundOptions,
  vs: ReturnType<typeof vsOf>,
): AsyncGenerator<BenchResult> {
  await preparePeers('vs', vs.peers, layers.flat(), vs);
  const threads = getThreads();
  try {
    for (const layer of layers) yield* runBench(layer, { ...options, vs });
  } finally {
    setThreads(threads);
  }
}
