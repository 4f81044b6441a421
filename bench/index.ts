// `moe-kernels/bench`: what `moe-kernels bench` measures, from a program.

import { ACTIVATIONS, type Activation } from '../src/activation.ts';
import { checkInteger, checkOneOf } from '../src/check.ts';
import { getFloat32Matmul, getThreads, setThreads } from '../src/device.ts';
import { describe, FLOAT_DTYPES, type FloatDType } from '../src/dtype.ts';
import { badArgument } from '../src/errors.ts';
import { checkDevice, type DeviceName } from '../src/tensor.ts';
import { type BenchCase, expandSweep, groupByLayer, parseShapes } from './campaign.ts';
import { PEER_NAMES, type PeerName } from './peers/names.ts';
import { describeFailure, peersNamed, preparePeers } from './peers/peers.ts';
import type { BenchResult } from './result.ts';
import { type BenchOptions, checkLayerFits, runBench } from './run.ts';
import { PASSES, type Pass } from './shapes.ts';
import { FEWEST_VALUES } from './statistics.ts';

export type { PeerResult } from './peers/race.ts';
export type { BenchResult } from './result.ts';
export { WrongResult } from './run.ts';
export type { LayerShape, Pass } from './shapes.ts';
export type { BenchCase, DeviceName, FloatDType, PeerName };

/** Every combination of these is measured. */
export interface BenchRequest {
  /** By name (`mixtral-mini`, `deepseek-mini`, `qwen3-mini`, `switch-mini`) or as `T,H,I,E,K`. Default `mixtral-mini`. */
  readonly shapes?: readonly string[];
  /** Instead of the shapes' own numbers of tokens. */
  readonly tokens?: readonly number[];
  /** Instead of the shapes' own. */
  readonly activation?: Activation;
  /** Default float32. */
  readonly dtypes?: readonly FloatDType[];
  /** Default `both`: forward, saving for backward, and backward; with `vs`, for most peers have no more, `forward`. */
  readonly passes?: readonly Pass[];
  /** Threads of the CPU backend. Default as {@link setThreads} left them, as they are again afterwards. */
  readonly threads?: readonly number[];
  /** Default `cpu`. */
  readonly device?: DeviceName;
  /** Milliseconds that the runs of a case take together at least. Default 2000. */
  readonly minTimeMs?: number;
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
  const { minTimeMs = 2000 } = request;
  if (!(minTimeMs > 0 && minTimeMs < Infinity))
    throw badArgument('ERR_INVALID_ARGUMENT', 'minTimeMs', 'a positive number', describe(minTimeMs));
  const layers = groupByLayer(casesOf(request));
  for (const layer of layers) checkLayerFits(layer);
  return measureLayers(layers, minTimeMs, vsOf(request));
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
  const { shapes = ['mixtral-mini'], tokens, activation, device = 'cpu' } = request;
  const { dtypes = ['float32'], threads = [getThreads()] } = request;
  const { passes = [request.vs?.length ? 'forward' : 'both'] } = request;
  checkDevice('device', device);
  return expandSweep({
    shapes: parseShapes('shapes', shapes, {
      ...(tokens && { tokens: tokens.map(count => checkInteger('tokens', count, 1)) }),
      ...(activation !== undefined && { activation: checkOneOf('activation', activation, ACTIVATIONS) }),
    }),
    dtypes: dtypes.map(dtype => checkOneOf('dtypes', dtype, FLOAT_DTYPES)),
    threads: threads.map(count => checkInteger('threads', count, 1, 1024)),
    passes: passes.map(pass => checkOneOf('passes', pass, PASSES)),
    device,
    tf32: getFloat32Matmul() === 'tf32',
  });
}

async function* measureLayers(
  layers: readonly BenchCase[][],
  minTimeMs: number,
  vs: ReturnType<typeof vsOf>,
): AsyncGenerator<BenchResult> {
  await preparePeers('vs', vs.peers, layers.flat(), vs);
  const threads = getThreads();
  try {
    for (const layer of layers) yield* runBench(layer, { minTimeMs, vs });
  } finally {
    setThreads(threads);
  }
}
