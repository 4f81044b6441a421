// The example's command line: its options, their defaults, and what is wrong with one.

import { parseArgs } from 'node:util';

/** Every option: its default and what it means. */
const OPTIONS = {
  steps: [1500, 'stop after so many steps'],
  seconds: [90, 'or after so many seconds, whichever comes first'],
  tokens: [512, 'T, bytes predicted per step'],
  context: [16, 'C, bytes the model sees'],
  embedding: [24, 'D, numbers per embedded byte'],
  hidden: [128, 'H'],
  intermediate: [128, 'I, the width of one expert'],
  experts: [8, 'E'],
  'top-k': [2, 'K, experts per token'],
  balance: [0.02, 'weight of the load-balancing loss'],
  'learning-rate': [0.004, 'the highest; it warms up, then falls linearly to zero'],
  seed: [1, 'of the initial values and of the batches'],
} as const;

const FRACTIONAL: readonly string[] = ['seconds', 'balance', 'learning-rate'];

export type Options = Record<keyof typeof OPTIONS, number>;

export const HELP = [
  'Usage: npx tsx examples/train-bytes.ts FILE [options]',
  '',
  ...Object.entries(OPTIONS).map(
    ([name, [value, meaning]]) => `  --${name.padEnd(14)} ${meaning} (${value})`,
  ),
].join('\n');

/** A mistake in the command line: its message is all there is to say. */
export class UsageError extends Error {}

/** The file and every option, or `help`. */
export function parseCommandLine(args: string[]): { file: string; options: Options } | 'help' {
  const names = Object.keys(OPTIONS) as (keyof Options)[];
  const texts = Object.fromEntries(names.map(name => [name, { type: 'string' as const }]));
  const { values, positionals } = parseStrictly(args, texts);
  if (values.help) return 'help';
  const options = Object.fromEntries(names.map(name => [name, parseNumber(name, values[name])])) as Options;
  if (options['top-k'] > options.experts) {
    throw new UsageError(
      `--top-k: expected at most ${options.experts}, the number of experts, got ${options['top-k']}`,
    );
  }
  const [file] = positionals;
  if (file === undefined || positionals.length > 1) {
    throw new UsageError(`FILE: expected one text file, got ${positionals.length} (--help says more)`);
  }
  return { file, options };
}

function parseStrictly(args: string[], texts: Record<string, { type: 'string' }>) {
  try {
    const help = { type: 'boolean', short: 'h' } as const;
    const parsed = parseArgs({ args, options: { ...texts, help }, allowPositionals: true });
    return {
      values: parsed.values as Record<string, string | boolean | undefined>,
      positionals: parsed.positionals,
    };
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function parseNumber(name: keyof Options, text: string | boolean | undefined): number {
  if (text === undefined) return OPTIONS[name][0];
  const value = Number(text);
  const whole = !FRACTIONAL.includes(name);
  if (!(value > 0 && value < Number.POSITIVE_INFINITY) || (whole && !Number.isInteger(value))) {
    throw new UsageError(`--${name}: expected a positive ${whole ? 'integer' : 'number'}, got ${text}`);
  }
  return value;
}
