// `moe-kernels bench`: layers checked, then timed, for every combination of what is asked for.

import { type BenchCase, caseKey, expandSweep, groupByLayer, type NamedShape } from '../../bench/campaign.ts';
import type { BenchResult } from '../../bench/result.ts';
import { checkLayerFits, runBench, WrongResult } from '../../bench/run.ts';
import { PASSES, parseShape, shapeName } from '../../bench/shapes.ts';
import { ACTIVATIONS } from '../activation.ts';
import { checkOneOf } from '../check.ts';
import { getThreads, setFloat32Matmul } from '../device.ts';
import { FLOAT_DTYPES } from '../dtype.ts';
import { checkDevice, type DeviceName } from '../tensor.ts';
import { printResults } from './bench-output.ts';
import { checkPositive, parseCounts, parseList } from './option-values.ts';
import { type ExitCode, printComparisons, printJson, writeError } from './output.ts';

/** Options as they stand on the command line. */
export interface BenchCommandOptions {
  shape: string[];
  activation?: string;
  tokens?: string;
  dtype: string;
  pass: string;
  device: DeviceName;
  tf32?: boolean;
  threads?: string;
  minTime: string;
  json: boolean;
}

export async function bench(options: BenchCommandOptions): Promise<ExitCode> {
  const cases = parseCases(options);
  const minTimeMs = 1000 * checkPositive('--min-time', options.minTime);
  const layers = groupByLayer(cases);
  for (const layer of layers) checkLayerFits(layer);
  if (options.tf32) setFloat32Matmul('tf32');
  const results = new Map<string, BenchResult>();
  let exitCode: ExitCode = 0;
  for (const layer of layers) {
    if (!(await collect(runBench(layer, { minTimeMs }), results, options.json))) exitCode = 1;
  }
  const found = cases.flatMap(one => results.get(caseKey(one)) ?? []);
  if (!options.json && found.length > 0) printResults(found);
  return exitCode;
}

/** Whether the run came to its end; if not, the result was wrong, and that has been said. */
async function collect(
  run: AsyncIterable<BenchResult>,
  results: Map<string, BenchResult>,
  json: boolean,
): Promise<boolean> {
  try {
    for await (const result of run) {
      results.set(caseKey(result), result);
      if (json) printJson(result);
    }
    return true;
  } catch (error) {
    if (!(error instanceof WrongResult)) throw error;
    if (!json) printComparisons(error.comparisons);
    writeError({ code: 'ERR_WRONG_RESULT', message: error.message }, json);
    return false;
  }
}

function parseCases(options: BenchCommandOptions): BenchCase[] {
  const { device, threads, tf32 = false } = options;
  checkDevice('--device', device);
  return expandSweep({
    shapes: parseShapes(options),
    dtypes: parseList('--dtype', options.dtype, FLOAT_DTYPES),
    threads: threads === undefined ? [getThreads()] : parseCounts('--threads', threads, 1024),
    passes: parseList('--pass', options.pass, PASSES),
    ...{ device, tf32 },
  });
}

function parseShapes({ shape: texts, activation: name, tokens }: BenchCommandOptions): NamedShape[] {
  const counts = tokens === undefined ? undefined : parseCounts('--tokens', tokens);
  const activation = name === undefined ? {} : { activation: checkOneOf('--activation', name, ACTIVATIONS) };
  return texts.flatMap(text => {
    const given = parseShape('--shape', text);
    return (counts ?? [given.tokens]).map(count => {
      const layer = { ...given, ...activation, tokens: count };
      return { shape: shapeName(text, layer), ...layer };
    });
  });
}
