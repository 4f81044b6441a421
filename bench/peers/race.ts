// Contenders beside each other on one task: each in a process of its own, what they compute compared before anything is timed, then
// turn by turn, A B C A B C, so that whatever the machine does meanwhile happens to all of them.

import { setTimeout } from 'node:timers/promises';
import { type Comparison, compare, GRADIENT_BOUND, relativeError, VALUE_BOUND } from '../../src/compare.ts';
import type { FloatDType } from '../../src/dtype.ts';
import { processorName } from '../processor.ts';
import { flops, type LayerShape, type Pass } from '../shapes.ts';
import { ascending, type Estimate, estimateRatio, FEWEST_VALUES, quantile } from '../statistics.ts';
import { Contender, ContenderFailure } from './contender.ts';
import { readFloats, TemporaryFolder } from './layer-files.ts';
import { ours } from './ours.ts';
import { type Peer, type ProgramOptions, RESULTS, type Task } from './peer.ts';

export interface RaceOptions extends ProgramOptions, TurnOptions {}

export interface TurnOptions {
  readonly rounds: number;
  /** How long each contender is measured, all rounds together; each runs once a round at least. */
  readonly minTimeMs: number;
}

/** A contender's times in one task. */
export interface RaceResult extends LayerShape {
  /** What the shape is called. */
  readonly shape: string;
  readonly dtype: FloatDType;
  readonly pass: Pass;
  readonly contender: string;
  readonly version: string;
  readonly threads: number;
  readonly medianMs: number;
  readonly p10Ms: number;
  readonly p90Ms: number;
  readonly tflops: number;
  readonly runs: number;
  readonly rounds: number;
  readonly cpu: string;
  /** Of a peer: the largest relative difference of a result from ours. */
  readonly difference?: number;
  /** Of a peer: how many times as long as ours it takes, with an interval of 95 % confidence. */
  readonly ratio?: Estimate;
}

/** A contender without times, and why. */
export interface LeftOut {
  readonly contender: string;
  /** It is not on this machine; it has not what the task needs; it did not work; its result is not ours. */
  readonly because: 'absent' | 'cannot' | 'failed' | 'wrong';
  readonly reason: string;
}

export interface Race {
  /** Ours first; none if no peer is left to run beside it. */
  readonly results: readonly RaceResult[];
  readonly leftOut: readonly LeftOut[];
}

interface Ready {
  readonly contender: Contender;
  readonly version: string;
  readonly threads: number;
  readonly difference?: number;
}

/** @param name what results call the shape */
export async function race(
  name: string,
  task: Task,
  peers: readonly Peer[],
  options: RaceOptions,
): Promise<Race> {
  const leftOut: LeftOut[] = [];
  const able = peers.filter(peer => {
    const reason = peer.can(task);
    if (reason !== undefined) leftOut.push({ contender: peer.name, because: 'cannot', reason });
    return reason === undefined;
  });
  if (able.length === 0) return { results: [], leftOut };
  using folder = new TemporaryFolder();
  const contenders: Contender[] = [];
  try {
    const ready: Ready[] = [];
    for (const peer of [ours, ...able]) {
      const contender = new Contender(peer.name, peer.program(options), task.threads);
      contenders.push(contender);
      const outcome = await makeReady(contender, task, folder.path);
      if ('because' in outcome) leftOut.push(outcome);
      else ready.push(outcome);
      // Without ours there is no layer to load and nothing to compare with.
      if (ready.length === 0) break;
    }
    const results = ready.length > 1 ? await raceReady(name, task, ready, options) : [];
    return { results, leftOut };
  } catch (error) {
    return { results: [], leftOut: [...leftOut, failed(error)] };
  } finally {
    await Promise.all(contenders.map(contender => contender[Symbol.asyncDispose]()));
  }
}

function failed(error: unknown): LeftOut {
  if (!(error instanceof ContenderFailure)) throw error;
  return { contender: error.contender, because: 'failed', reason: error.message };
}

/** Loads the layer and compares what it computes with what ours did. */
async function makeReady(contender: Contender, task: Task, folder: string): Promise<Ready | LeftOut> {
  const { name } = contender;
  try {
    const loaded = await contender.load(task, folder);
    const made = await contender.check(name);
    if (name === ours.name) return { contender, ...loaded };
    const comparisons = RESULTS[task.pass].map(result => {
      const theirs = made.includes(result) ? readFloats(folder, `${name}.${result}`) : [];
      const expected = readFloats(folder, `${ours.name}.${result}`);
      return compare(result, relativeError(theirs, expected), differenceBound(task.dtype, result));
    });
    const wrong = comparisons.filter(({ holds }) => !holds);
    if (wrong.length > 0) return { contender: name, because: 'wrong', reason: describeComparisons(wrong) };
    return { contender, ...loaded, difference: Math.max(...comparisons.map(({ error }) => error)) };
  } catch (error) {
    return failed(error);
  }
}

function describeComparisons(comparisons: readonly Comparison[]): string {
  const list = comparisons.map(
    ({ name, error, bound }) => `${name} ${error.toExponential(1)} > ${bound.toExponential(1)}`,
  );
  return `its result differs from ours: ${list.join(', ')}`;
}

/** As many roundings to the dtype as lie between x and the gradient of the up projection. */
const ROUNDINGS = 5;
const UNIT_ROUNDOFF = { bfloat16: 2 ** -8, float16: 2 ** -11 } as const;

/** How far two right results may be apart. */
export function differenceBound(dtype: FloatDType, result: string): number {
  if (dtype === 'float32') return result === 'y' ? VALUE_BOUND : GRADIENT_BOUND;
  return ROUNDINGS * UNIT_ROUNDOFF[dtype];
}

async function raceReady(
  name: string,
  task: Task,
  ready: readonly Ready[],
  options: TurnOptions,
): Promise<RaceResult[]> {
  const { shape, dtype, pass } = task;
  const turns = await takeTurns(
    ready.map(({ contender }) => contender),
    options,
  );
  return ready.map(({ contender, version, threads, difference }, i) => {
    const times = ascending(turns[i]!.flat());
    const medianMs = quantile(times, 0.5);
    return {
      ...{ shape: name, dtype, pass, contender: contender.name, version, threads, medianMs },
      ...{ p10Ms: quantile(times, 0.1), p90Ms: quantile(times, 0.9) },
      tflops: flops(shape, pass) / (medianMs * 1e9),
      ...shape,
      ...{ runs: times.length, rounds: turns[i]!.length, cpu: processorName(), difference },
      ratio: i > 0 ? estimateRatio(turns[i]!, turns[0]!) : undefined,
    };
  });
}

/** What is run by turns. */
export interface Runner {
  /** Runs that often, one after the other, and returns how long each took. */
  run(times: number): Promise<readonly number[]>;
}

/** After the run that is checked; the faster one says how many runs make a turn. */
const WARM_UP_RUNS = 2;
/** Between turns: threads of the last one that still wait for work, spinning, have gone to sleep by then. */
const REST_MS = 20;

/**
 * Of each runner the times of each turn. A turn takes its share of `minTimeMs`, or one run; a runner whose one run takes longer than
 * `minTimeMs` sits out all but the first rounds, as many as an interval needs. Nobody takes more turns than the first runner, whom
 * the others are compared with.
 */
export async function takeTurns(
  runners: readonly Runner[],
  { rounds, minTimeMs }: TurnOptions,
): Promise<(readonly number[])[][]> {
  const plans: { runner: Runner; times: number; rounds: number; turns: (readonly number[])[] }[] = [];
  for (const runner of runners) {
    const warm = Math.min(...(await runner.run(WARM_UP_RUNS)));
    const most = plans[0]?.rounds ?? rounds;
    plans.push({
      runner,
      times: Math.max(1, Math.round(minTimeMs / rounds / warm)),
      rounds: warm > minTimeMs ? Math.min(most, FEWEST_VALUES) : most,
      turns: [],
    });
  }
  for (let round = 0; round < rounds; round++) {
    for (const { runner, times, turns } of plans.filter(plan => round < plan.rounds)) {
      await setTimeout(REST_MS);
      turns.push(await runner.run(times));
    }
  }
  return plans.map(({ turns }) => turns);
}
