// `moe-kernels profile`: layers checked, then their stages timed, for every combination of what is asked for.

import { closeSync, openSync, writeFileSync } from 'node:fs';
import { type BenchCase, caseKey, groupByLayer } from '../../bench/campaign.ts';
import { describeSizes, stageName } from '../../bench/describe-layer.ts';
import { writing } from '../../bench/file-access.ts';
import { groupBy } from '../../bench/group-by.ts';
import { ofThisMachine } from '../../bench/machine.ts';
import type { MeasureOptions } from '../../bench/measure.ts';
import { type Profile, type ProfileResult, runProfile } from '../../bench/profile.ts';
import { isProfile, ResultFile } from '../../bench/result-file.ts';
import { checkLayerFits, WrongResult } from '../../bench/run.ts';
import { traceOf } from '../../bench/trace.ts';
import { setThreads } from '../device.ts';
import { type CaseOptions, parseCases } from './bench-options.ts';
import { onInterruption } from './interruption.ts';
import { checkPositive } from './option-values.ts';
import { type ExitCode, printComparisons, printJson, printLine, printTable, writeError } from './output.ts';

/** Options as they stand on the command line. */
export interface ProfileCommandOptions extends CaseOptions {
  minTime: string;
  out?: string;
  trace?: string;
  json: boolean;
}

export async function profile(options: ProfileCommandOptions): Promise<ExitCode> {
  const { json, out, trace } = options;
  const cases = parseCases(options, option => `--${option}`);
  const minTimeMs = 1000 * checkPositive('--min-time', options.minTime);
  if (trace !== undefined) checkWritable(trace);
  const file = out === undefined ? undefined : new ResultFile('--out', out);
  const kept = ofThisMachine(file?.results.filter(isProfile) ?? []);
  const layers = groupByLayer(cases.filter(one => !kept.has(caseKey(one))));
  for (const layer of layers) checkLayerFits(layer);

  const show = (result: ProfileResult) => (json ? printJson(result) : printResult(result));
  for (const one of cases) {
    const result = kept.get(caseKey(one));
    if (result) show(result);
  }
  const profiles: Profile[] = [];
  const finish = () => {
    if (trace !== undefined && profiles.length > 0) writeTrace(trace, profiles);
  };
  using _ = onInterruption(() => {
    finish();
    const left = layers.flat().length - profiles.length;
    return { finished: cases.length - left, total: cases.length, out };
  }, json);
  let exitCode: ExitCode = 0;
  for (const layer of layers) {
    try {
      for await (const made of profileLayer(layer, { minTimeMs })) {
        file?.append(made.result);
        profiles.push(made);
        show(made.result);
      }
    } catch (error) {
      if (!(error instanceof WrongResult)) throw error;
      if (!json) printComparisons(error.comparisons);
      writeError({ code: 'ERR_WRONG_RESULT', message: error.message }, json);
      exitCode = 1;
    }
  }
  finish();
  return exitCode;
}

/** Of one layer in one dtype, with each number of threads. */
async function* profileLayer(layer: readonly BenchCase[], options: MeasureOptions): AsyncGenerator<Profile> {
  for (const group of groupBy(layer, ({ threads }) => threads)) {
    const { pass, cache, threads, dtype, device, ...shape } = group[0]!;
    setThreads(threads);
    yield* runProfile({ shape, dtype, device, passes: group.map(one => one.pass), ...options });
  }
}

/** Asked before measuring; what the file holds stays until there is something to write. */
function checkWritable(file: string): void {
  writing('--trace', file, () => closeSync(openSync(file, 'a')));
}

function writeTrace(file: string, profiles: readonly Profile[]): void {
  writing('--trace', file, () => writeFileSync(file, JSON.stringify(traceOf(profiles))));
}

function printResult(result: ProfileResult): void {
  const { shape, tokens } = result;
  printLine(`${shape}: T ${tokens}, ${describeSizes(result)}`);
  const { dtype, pass, runs, stages, betweenMs, totalMs } = result;
  printLine(`${dtype}, ${pass}, ${describePlace(result)}, median of ${runs} runs`);
  const time = (ms: number) => [ms.toFixed(3), percent(ms / totalMs)];
  const rows = stages.map(({ op, stage, medianMs, flops, bytes, floorMs }) => [
    stageName({ op, stage }),
    ...time(medianMs),
    ...(flops ? [(flops / 1e9).toFixed(2)] : ['–']),
    ...(bytes === undefined ? ['–', '–'] : [(bytes / 1e6).toFixed(1), percent(floorMs! / medianMs)]),
  ]);
  rows.push(['between stages', ...time(betweenMs), '–', '–', '–'], ['total', ...time(totalMs), '', '', '']);
  const head = ['stage', 'ms', 'share', 'GFLOP', 'MB', 'of the floor'];
  printTable(head, rows, ['left', ...Array(5).fill('right')]);
}

function describePlace({ device, deviceName, threads, instructionSet }: ProfileResult): string {
  return device === 'cpu' ? `${threads} threads (${instructionSet})` : `${device} (${deviceName})`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
