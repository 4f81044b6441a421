// `moe-kernels bench`: layers checked, then timed, for every combination of what is asked for.

import { type BenchCase, caseKey, groupByLayer } from '../../bench/campaign.ts';
import { machineOf, ofThisMachine } from '../../bench/machine.ts';
import { describeFailure, isBeside, preparePeers } from '../../bench/peers/peers.ts';
import type { PeerFailure } from '../../bench/peers/race.ts';
import type { BenchResult } from '../../bench/result.ts';
import { isBench, ResultFile } from '../../bench/result-file.ts';
import type { RoundOptions } from '../../bench/rounds.ts';
import { type BenchOptions, checkLayerFits, runBench, WrongResult } from '../../bench/run.ts';
import { setFloat32Matmul } from '../device.ts';
import { printShapes } from './bench-list.ts';
import { type BenchCommandOptions, parseCases, parseRounds, parseVs, withPlan } from './bench-options.ts';
import { printResults } from './bench-output.ts';
import { BenchProgress } from './bench-progress.ts';
import { comparison } from './comparison.ts';
import { onInterruption } from './interruption.ts';
import { type ExitCode, printComparisons, printJson, writeError, writeNote } from './output.ts';

const FAILURE_CODES = { failed: 'ERR_PEER', wrong: 'ERR_WRONG_RESULT' } as const;

/** @param isGiven whether an option stands on the command line, and so overrides the plan */
export async function bench(
  given: BenchCommandOptions,
  isGiven: (option: string) => boolean,
): Promise<ExitCode> {
  if (given.list) {
    printShapes(given);
    return 0;
  }
  const { options, nameOf } = withPlan(given, isGiven);
  const cases = parseCases(options, nameOf);
  const rounds = parseRounds(options, nameOf);
  const vs = parseVs(options, nameOf);
  const { device } = options;
  const compare = comparison(options, [{ ...machineOf(device), device }]);
  const file = options.out === undefined ? undefined : new ResultFile('--out', options.out);
  const usable = file?.results
    .filter(isBench)
    .filter(result => isMeasuredAs(rounds, result) && isBeside(vs.peers, result));
  const results = ofThisMachine(usable ?? []);
  const pending = cases.filter(one => !results.has(caseKey(one)));
  const layers = groupByLayer(pending);
  for (const layer of layers) checkLayerFits(layer);
  if (options.tf32) setFloat32Matmul('tf32');

  const { json } = options;
  await preparePeers(nameOf('vs'), vs.peers, pending, { ...vs, say: line => writeNote(line, json) });
  const progress = new BenchProgress(pending.length, process.stderr.isTTY && !json);
  const finished = () => cases.flatMap(one => results.get(caseKey(one)) ?? []).map(compare);
  const keep = (result: BenchResult) => {
    file?.append(result);
    results.set(caseKey(result), result);
    progress.finishOne();
    if (json) printJson(compare(result));
  };
  const show = () => {
    progress.hide();
    if (!json) printResults(finished(), options);
  };
  if (json) for (const result of finished()) printJson(result);
  using _ = onInterruption(() => {
    show();
    return { finished: finished().length, total: cases.length, out: options.out };
  }, json);
  try {
    let exitCode: ExitCode = 0;
    const onCase = (next: BenchCase) => progress.show(caseKey(next));
    const onFailure = (failure: PeerFailure) => {
      exitCode = 1;
      progress.hide();
      writeError({ code: FAILURE_CODES[failure.because], message: describeFailure(failure) }, json);
    };
    for (const layer of layers) {
      const error = await runLayer(layer, { ...rounds, onCase, vs: { ...vs, onFailure } }, keep);
      if (error === undefined) continue;
      exitCode = 1;
      progress.hide();
      reportWrong(error, options);
    }
    show();
    return finished().some(({ baseline }) => baseline?.verdict === 'slower') ? 1 : exitCode;
  } finally {
    progress.hide();
  }
}

/** Results measured for longer, shorter or less precisely than asked for are no part of this campaign. */
function isMeasuredAs({ minTimeMs, maxTimeMs, precision }: RoundOptions, result: BenchResult): boolean {
  return result.minTimeMs === minTimeMs && result.maxTimeMs === maxTimeMs && result.precision === precision;
}

/** Keeps the results of one layer; what is wrong with it ends it. */
async function runLayer(
  layer: readonly BenchCase[],
  options: BenchOptions,
  keep: (result: BenchResult) => void,
): Promise<WrongResult | undefined> {
  try {
    for await (const result of runBench(layer, options)) keep(result);
    return undefined;
  } catch (error) {
    if (error instanceof WrongResult) return error;
    throw error;
  }
}

function reportWrong({ comparisons, message }: WrongResult, { json, csv }: BenchCommandOptions): void {
  if (!json && !csv) printComparisons(comparisons);
  writeError({ code: 'ERR_WRONG_RESULT', message }, json);
}
