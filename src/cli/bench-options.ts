// What the options of `moe-kernels bench` ask for.

import { type BenchCase, expandSweep, parseShapes } from '../../bench/campaign.ts';
import { PASSES } from '../../bench/shapes.ts';
import { ACTIVATIONS } from '../activation.ts';
import { checkOneOf } from '../check.ts';
import { getThreads } from '../device.ts';
import { FLOAT_DTYPES } from '../dtype.ts';
import { checkDevice, type DeviceName } from '../tensor.ts';
import { readPlan } from './bench-plan.ts';
import type { ComparisonOptions } from './comparison.ts';
import { parseCounts, parseList } from './option-values.ts';

/** Options as they stand on the command line. */
export interface BenchCommandOptions extends ComparisonOptions {
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
  plan?: string;
  csv: boolean;
  json: boolean;
}

/** Those that say what a campaign measures. */
export type CaseOptions = Pick<
  BenchCommandOptions,
  'shape' | 'activation' | 'tokens' | 'dtype' | 'pass' | 'device' | 'tf32' | 'threads'
>;

/** What the user calls an option: by the command line, or by a key of the plan. */
export type NameOf = (option: keyof BenchCommandOptions) => string;

/** The options with those of the plan, if there is one, where the command line does not give them. */
export function withPlan(
  options: BenchCommandOptions,
  isGiven: (option: string) => boolean,
): { options: BenchCommandOptions; nameOf: NameOf } {
  const { plan: path } = options;
  const plan = path === undefined ? [] : [...readPlan(path)].filter(([key]) => !isGiven(key));
  const planned = new Map(plan.map(([key, values]) => [key, key === 'shape' ? values : values.join()]));
  return {
    options: { ...options, ...Object.fromEntries(planned) },
    nameOf: option => (planned.has(option) ? `${path}: ${option}` : `--${option.replace('T', '-t')}`),
  };
}

export function parseCases(options: CaseOptions, nameOf: NameOf): BenchCase[] {
  const { device, threads, tokens, activation, tf32 = false } = options;
  checkDevice(nameOf('device'), device);
  return expandSweep({
    shapes: parseShapes(nameOf('shape'), options.shape, {
      ...(tokens !== undefined && { tokens: parseCounts(nameOf('tokens'), tokens) }),
      ...(activation !== undefined && {
        activation: checkOneOf(nameOf('activation'), activation, ACTIVATIONS),
      }),
    }),
    dtypes: parseList(nameOf('dtype'), options.dtype, FLOAT_DTYPES),
    threads: threads === undefined ? [getThreads()] : parseCounts(nameOf('threads'), threads, 1024),
    passes: parseList(nameOf('pass'), options.pass, PASSES),
    ...{ device, tf32 },
  });
}
