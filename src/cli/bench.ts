// `moe-kernels bench`: layers checked, then timed, for every combination of what is asked for.

import { type BenchCase, caseKey, groupByLayer } from '../../bench/campaign.ts';
import { processorName } from '../../bench/processor.ts';
import type { BenchResult } from '../../bench/result.ts';
import { isBench, ResultFile } from '../../bench/result-file.ts';
import { type BenchOptions, checkLayerFits, runBench, WrongResult } from '../../bench/run.ts';
import { ofThisMachine } from '../../bench/this-machine.ts';
import { setFloat32Matmul } from '../device.ts';
import { type BenchCommandOptions, parseCases, withPlan } from './bench-options.ts';
import { printResults } from './bench-output.ts';
import { BenchProgress } from './bench-progress.ts';
import { comparison } from './comparison.ts';
import { checkPositive } from './option-values.ts';
import { type ExitCode, printComparisons, printJson, writeError } from './output.ts';

const INTERRUPTED = 130;

/** @param isGiven whether an option stands on the command line, and so overrides the plan */
export async function bench(
  given: BenchCommandOptions,
  isGiven: (option: string) => boolean,
): Promise<ExitCode> {
  const { options, nameOf } = withPlan(given, isGiven);
  const cases = parseCases(options, nameOf);
  const minTimeMs = 1000 * checkPositive(nameOf('minTime'), options.minTime);
  const compare = comparison(options, [processorName()]);
  const file = options.out === undefined ? undefined : new ResultFile('--out', options.out);
  const results = ofThisMachine(file?.results.filter(isBench) ?? []);
  const pending = cases.filter(one => !results.has(caseKey(one)));
  const layers = groupByLayer(pending);
  for (const layer of layers) checkLayerFits(layer);
  if (options.tf32) setFloat32Matmul('tf32');

  const { json } = options;
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
  const stop = () => {
    show();
    const message = describeStop(finished().length, cases.length, options.out);
    writeError({ code: 'ERR_INTERRUPTED', message }, json);
    process.exit(INTERRUPTED);
  };
  if (json) for (const result of finished()) printJson(result);
  process.once('SIGINT', stop);
  try {
    let exitCode: ExitCode = 0;
    const onCase = (next: BenchCase) => progress.show(caseKey(next));
    for (const layer of layers) {
      const error = await runLayer(layer, { minTimeMs, onCase }, keep);
      if (error === undefined) continue;
      exitCode = 1;
      progress.hide();
      reportWrong(error, options);
    }
    show();
    return finished().some(({ baseline }) => baseline?.verdict === 'slower') ? 1 : exitCode;
  } finally {
    progress.hide();
    process.off('SIGINT', stop);
  }
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

function describeStop(finished: number, total: number, out: string | undefined): string {
  const counted = `stopped with ${finished} of ${total} results finished`;
  return out === undefined
    ? `${counted}; with --out FILE they would be kept, and the same command would go on with the rest`
    : `${counted}, which ${out} holds; the same command goes on with the rest`;
}
