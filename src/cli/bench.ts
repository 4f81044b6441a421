// `moe-kernels bench`: a layer checked, then timed, for every dtype and pass asked for.

import type { BenchResult } from '../../bench/result.ts';
import { runBench, WrongResult } from '../../bench/run.ts';
import { type LayerShape, PASSES, parseShape } from '../../bench/shapes.ts';
import { ACTIVATIONS } from '../activation.ts';
import { checkInteger, checkOneOf } from '../check.ts';
import { setFloat32Matmul, setThreads } from '../device.ts';
import { FLOAT_DTYPES } from '../dtype.ts';
import { checkDevice, type DeviceName } from '../tensor.ts';
import { checkPositive, parseList } from './option-values.ts';
import { type ExitCode, printComparisons, printJson, printLine, printTable, writeError } from './output.ts';

/** Options as they stand on the command line. */
export interface BenchCommandOptions {
  shape: string;
  activation?: string;
  dtype: string;
  pass: string;
  device: DeviceName;
  tf32?: boolean;
  threads?: string;
  minTime: string;
  json: boolean;
}

export async function bench(options: BenchCommandOptions): Promise<ExitCode> {
  const { device, json } = options;
  checkDevice('--device', device);
  const shape = parseLayer(options);
  const dtypes = parseList('--dtype', options.dtype, FLOAT_DTYPES);
  const passes = parseList('--pass', options.pass, PASSES);
  const minTimeMs = 1000 * checkPositive('--min-time', options.minTime);
  if (options.tf32) setFloat32Matmul('tf32');
  if (options.threads !== undefined) setThreads(checkInteger('--threads', Number(options.threads), 1, 1024));
  const results: BenchResult[] = [];
  let exitCode: ExitCode = 0;
  for (const dtype of dtypes) {
    const run = runBench({ name: options.shape, shape, dtype, device, passes, minTimeMs });
    if (!(await collect(run, results, json))) exitCode = 1;
  }
  if (!json && results.length > 0) printResults(results);
  return exitCode;
}

/** Whether the run came to its end; if not, the result was wrong, and that has been said. */
async function collect(
  run: AsyncIterable<BenchResult>,
  results: BenchResult[],
  json: boolean,
): Promise<boolean> {
  try {
    for await (const result of run) {
      if (json) printJson(result);
      else results.push(result);
    }
    return true;
  } catch (error) {
    if (!(error instanceof WrongResult)) throw error;
    if (!json) printComparisons(error.comparisons);
    writeError({ code: 'ERR_WRONG_RESULT', message: error.message }, json);
    return false;
  }
}

function parseLayer({ shape: text, activation }: BenchCommandOptions): LayerShape {
  const shape = parseShape('--shape', text);
  if (activation === undefined) return shape;
  return { ...shape, activation: checkOneOf('--activation', activation, ACTIVATIONS) };
}

function printResults(results: readonly BenchResult[]): void {
  const { shape, tokens, hidden, intermediate, experts, topK, activation, device, instructionSet } =
    results[0]!;
  const sizes = `T ${tokens}, H ${hidden}, I ${intermediate}, E ${experts}, K ${topK}`;
  printLine(
    `${shape}: ${sizes}, ${activation}, on ${device} (${instructionSet}); checked against the reference first`,
  );
  const rows = results.map(({ dtype, pass, threads, medianMs, minMs, tflops, floorMs, runs }) => [
    ...[dtype, pass, `${threads}`, medianMs.toFixed(2), minMs.toFixed(2), tflops.toPrecision(3)],
    ...[floorMs === undefined ? '–' : `${((100 * floorMs) / medianMs).toFixed(0)} %`, `${runs}`],
  ]);
  const head = ['dtype', 'pass', 'threads', 'median ms', 'min ms', 'TFLOP/s', 'of the floor', 'runs'];
  printTable(head, rows, ['left', 'left', ...Array(6).fill('right')]);
}
