// `moe-kernels profile`: a layer checked, then its stages timed, for every dtype and pass asked for.

import { closeSync, openSync, writeFileSync } from 'node:fs';
import type { NamedShape } from '../../bench/campaign.ts';
import { describeSizes } from '../../bench/describe-layer.ts';
import { writing } from '../../bench/file-access.ts';
import { type Profile, type ProfileResult, runProfile } from '../../bench/profile.ts';
import { ROUTER_CHOICES } from '../../bench/routed-shapes.ts';
import { WrongResult } from '../../bench/run.ts';
import { PASSES } from '../../bench/shapes.ts';
import { traceOf } from '../../bench/trace.ts';
import { checkInteger, checkOneOf } from '../check.ts';
import { setThreads } from '../device.ts';
import { FLOAT_DTYPES } from '../dtype.ts';
import { checkDevice, type DeviceName } from '../tensor.ts';
import { parseLayers } from './bench-options.ts';
import { checkPositive, parseList } from './option-values.ts';
import { type ExitCode, printComparisons, printJson, printLine, printTable, writeError } from './output.ts';

/** Options as they stand on the command line. */
export interface ProfileCommandOptions {
  shape: string;
  tokens?: string;
  activation?: string;
  router?: string;
  skew?: string;
  dtype: string;
  pass: string;
  device: DeviceName;
  threads?: string;
  minTime: string;
  trace?: string;
  json: boolean;
}

export async function profile(options: ProfileCommandOptions): Promise<ExitCode> {
  const { device, json, trace } = options;
  checkDevice('--device', device);
  const shape = parseLayer(options);
  const dtypes = parseList('--dtype', options.dtype, FLOAT_DTYPES);
  const passes = parseList('--pass', options.pass, PASSES);
  const minTimeMs = 1000 * checkPositive('--min-time', options.minTime);
  if (options.threads !== undefined) setThreads(checkInteger('--threads', Number(options.threads), 1, 1024));
  if (trace !== undefined) checkWritable(trace);
  const profiles: Profile[] = [];
  try {
    for (const dtype of dtypes) {
      for await (const made of runProfile({ shape, dtype, device, passes, minTimeMs })) {
        profiles.push(made);
        if (json) printJson(made.result);
        else printResult(made.result);
      }
    }
  } catch (error) {
    if (!(error instanceof WrongResult)) throw error;
    if (!json) printComparisons(error.comparisons);
    writeError({ code: 'ERR_WRONG_RESULT', message: error.message }, json);
    return 1;
  }
  if (trace !== undefined) writeTrace(trace, profiles);
  return 0;
}

/** Of each option the one value. */
function parseLayer({ shape, ...options }: ProfileCommandOptions): NamedShape {
  const { tokens, router } = options;
  if (tokens !== undefined) checkInteger('--tokens', Number(tokens), 1);
  if (router !== undefined) checkOneOf('--router', router, ROUTER_CHOICES);
  return parseLayers([shape], options)[0]!;
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
    stage === undefined ? op : `${op} ${stage}`,
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
