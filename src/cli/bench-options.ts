// What the options of `moe-kernels bench` ask for.

import { type BenchCase, expandSweep, type NamedShape } from '../../bench/campaign.ts';
import { PASSES, parseShape, shapeName } from '../../bench/shapes.ts';
import { ACTIVATIONS } from '../activation.ts';
import { checkOneOf } from '../check.ts';
import { getThreads } from '../device.ts';
import { FLOAT_DTYPES } from '../dtype.ts';
import { checkDevice, type DeviceName } from '../tensor.ts';
import { parseCounts, parseList } from './option-values.ts';

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
  out?: string;
  baseline?: string;
  tolerance: string;
  csv: boolean;
  json: boolean;
}

export function parseCases(options: BenchCommandOptions): BenchCase[] {
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
