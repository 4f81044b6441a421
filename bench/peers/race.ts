// A layer of ours beside peers, each in a process of its own: what they compute is held against what ours does before anything is
// timed, then all take turns.

import { type Comparison, compare, GRADIENT_BOUND, relativeError, VALUE_BOUND } from '../../src/compare.ts';
import type { FloatDType } from '../../src/dtype.ts';
import type { BenchCase } from '../campaign.ts';
import { timeUntilIdle } from '../clock.ts';
import { type Timing, timeOnce, timingOf } from '../measure.ts';
import { type MeasuredPass, measuredPass } from '../measured-case.ts';
import { estimateRatio } from '../statistics.ts';
import type { Workload } from '../workload.ts';
import { Contender, ContenderFailure } from './contender.ts';
import { readFloats, TemporaryFolder } from './layer-files.ts';
import type { PeerName } from './names.ts';
import { computeResults, writeLayer } from './ours.ts';
import { type Peer, type ProgramOptions, RESULTS, type Results, type Task, taskFor } from './peer.ts';
import { type Runner, type TurnOptions, takeTurns } from './turns.ts';

export interface RaceOptions extends ProgramOptions, TurnOptions {
  readonly peers: readonly Peer[];
  /** Told of each peer that is not timed because it failed, or because its result is not ours. */
  readonly onFailure: (failure: PeerFailure) => void;
}

/** A peer's times beside ours. */
export interface PeerResult extends Pick<Timing, 'medianMs' | 'p10Ms' | 'p90Ms' | 'runs'> {
  readonly peer: PeerName;
  /** Of the peer's package. */
  readonly version: string;
  /** In which it ran: the case's, or float32 where the peer lacks that. */
  readonly dtype: FloatDType;
  /** On which it ran. */
  readonly threads: number;
  /** The largest relative difference of a result from ours. */
  readonly difference: number;
  /** How many times as long as ours it takes, and the interval that holds this with 95 % confidence. */
  readonly ratio: number;
  readonly ratioLow: number;
  readonly ratioHigh: number;
}

/** A peer that is not timed beside a case, and why. */
export interface PeerFailure {
  readonly peer: PeerName;
  readonly one: BenchCase;
  /** It did not work; its result is not ours. */
  readonly because: 'failed' | 'wrong';
  readonly reason: string;
}

export interface Raced {
  /** Ours, from the same turns. */
  readonly timing: Timing;
  readonly vs: readonly PeerResult[];
}

interface Ready {
  readonly contender: Contender;
  readonly task: Task;
  readonly version: string;
  readonly threads: number;
  readonly difference: number;
}

/** The races of one layer, whose files lie in a folder meanwhile. */
export class Races implements Disposable {
  readonly #workload: Workload;
  readonly #options: RaceOptions;
  #folder: TemporaryFolder | undefined;

  constructor(workload: Workload, options: RaceOptions) {
    this.#workload = workload;
    this.#options = options;
  }

  /**
   * Runs a case of the layer.
   * @returns undefined if there is no peer to run beside ours
   */
  async run(one: BenchCase): Promise<Raced | undefined> {
    const { peers, ...options } = this.#options;
    const tasks = peers.map(peer => ({ peer, task: taskFor(peer, one) }));
    const able = tasks.filter((found): found is { peer: Peer; task: Task } => typeof found.task !== 'string');
    if (able.length === 0) return undefined;
    const pass = measuredPass(this.#workload, one.pass);
    const folder = await this.#files();
    const expected = await computeResults(this.#workload, pass);
    const contenders: Contender[] = [];
    const fail = (error: unknown) => {
      if (!(error instanceof ContenderFailure)) throw error;
      options.onFailure({ peer: error.contender, one, because: error.because, reason: error.message });
    };
    try {
      const ready: Ready[] = [];
      for (const { peer, task } of able) {
        const contender = new Contender(peer.name, peer.program(options), task.threads);
        contenders.push(contender);
        await makeReady(contender, task, folder, { one, expected }).then(made => ready.push(made), fail);
      }
      return ready.length === 0 ? undefined : await race(one, pass, ready, options);
    } catch (error) {
      fail(error);
      return undefined;
    } finally {
      await Promise.all(contenders.map(contender => contender[Symbol.asyncDispose]()));
    }
  }

  [Symbol.dispose](): void {
    this.#folder?.[Symbol.dispose]();
  }

  async #files(): Promise<string> {
    if (this.#folder === undefined) {
      this.#folder = new TemporaryFolder();
      await writeLayer(this.#workload, this.#folder.path);
    }
    return this.#folder.path;
  }
}

/** Loads the layer and compares what it computes with what ours did. */
async function makeReady(
  contender: Contender,
  task: Task,
  folder: string,
  { one, expected }: { readonly one: BenchCase; readonly expected: Results },
): Promise<Ready> {
  const { name } = contender;
  const loaded = await contender.load(task, folder);
  const made = await contender.check(name);
  const comparisons = RESULTS[task.pass].map(result => {
    const theirs = made.includes(result) ? readFloats(folder, `${name}.${result}`) : [];
    return compare(result, relativeError(theirs, expected[result]!), differenceBound(one, result));
  });
  const wrong = comparisons.filter(({ holds }) => !holds);
  if (wrong.length > 0) throw new ContenderFailure(name, describeComparisons(wrong), 'wrong');
  return { contender, task, ...loaded, difference: Math.max(...comparisons.map(({ error }) => error)) };
}

function describeComparisons(comparisons: readonly Comparison[]): string {
  const list = comparisons.map(
    ({ name, error, bound }) => `${name} ${error.toExponential(1)} > ${bound.toExponential(1)}`,
  );
  return `its result differs from ours: ${list.join(', ')}`;
}

/** As many roundings as lie between x and the gradient of the up projection. */
const ROUNDINGS = 5;
const UNIT_ROUNDOFF = { bfloat16: 2 ** -8, float16: 2 ** -11, tf32: 2 ** -11 } as const;

/** How far two right results of a case may be apart, the other in the case's dtype or in float32. */
export function differenceBound({ dtype, tf32 }: Pick<BenchCase, 'dtype' | 'tf32'>, result: string): number {
  if (dtype === 'float32' && !tf32) return result === 'y' ? VALUE_BOUND : GRADIENT_BOUND;
  return ROUNDINGS * UNIT_ROUNDOFF[dtype === 'float32' ? 'tf32' : dtype];
}

async function race(
  one: BenchCase,
  pass: MeasuredPass,
  ready: readonly Ready[],
  options: TurnOptions,
): Promise<Raced> {
  // By the host's clock, as peers are timed.
  const timed = { ...pass, time: (call: () => void) => timeUntilIdle(one.device, call) };
  const ours: Runner = { run: async times => Array.from({ length: times }, () => timeOnce(timed)) };
  const [turns, ...turnsOfPeers] = await takeTurns(
    [ours, ...ready.map(({ contender }) => contender)],
    options,
  );
  return {
    timing: timingOf(turns!.flat()),
    vs: ready.map((peer, i) => peerResult(peer, turnsOfPeers[i]!, turns!)),
  };
}

function peerResult(
  { contender, task, version, threads, difference }: Ready,
  theirs: readonly (readonly number[])[],
  ours: readonly (readonly number[])[],
): PeerResult {
  const { medianMs, p10Ms, p90Ms, runs } = timingOf(theirs.flat());
  const { median, low, high } = estimateRatio(theirs, ours);
  return {
    ...{ peer: contender.name, version, dtype: task.dtype, threads },
    ...{ medianMs, p10Ms, p90Ms, runs, difference },
    ...{ ratio: median, ratioLow: low, ratioHigh: high },
  };
}
