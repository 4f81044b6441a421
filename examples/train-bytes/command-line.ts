// The example's command line: its options, their defaults, and what is wrong with one.

import { parseArgs } from 'node:util';
import { RECIPES, ROUTER_NAMES, type RouterName } from './routers.ts';

/** Every numeric option: its default and what it means. */
const NUMBERS = {
  steps: [1000, 'stop after so many steps'],
  seconds: [90, 'or after so many seconds, whichever comes first'],
  tokens: [512, 'T, bytes predicted per step'],
  sequence: [16, 'consecutive bytes of a batch; divides T'],
  context: [16, 'C, bytes the model sees'],
  embedding: [24, 'D, numbers per embedded byte'],
  hidden: [128, 'H'],
  intermediate: [128, 'I, the width of one expert'],
  experts: [8, 'E'],
  'top-k': [undefined, "K, experts per token, instead of the router's own"],
  'learning-rate': [0.004, 'the highest; it warms up, then falls linearly to zero'],
  seed: [1, 'of the initial values and of the batches'],
} as const;

const FRACTIONAL: readonly string[] = ['seconds', 'learning-rate'];
const DEFAULT_ROUTER: RouterName = 'aux-loss';

type NumberName = keyof typeof NUMBERS;
export type Options = Record<Exclude<NumberName, 'top-k'>, number> & {
  'top-k': number | undefined;
  router: RouterName;
};

const line = (name: string, meaning: string) => `  ${name.padEnd(18)} ${meaning}`;

export const HELP = [
  'Usage: npx tsx examples/train-bytes.ts FILE [options]',
  '',
  line('--router', `how tokens are routed, one of those below (${DEFAULT_ROUTER})`),
  ...Object.entries(NUMBERS).map(([name, [value, meaning]]) =>
    line(`--${name}`, value === undefined ? meaning : `${meaning} (${value})`),
  ),
  '',
  'Routers:',
  ...ROUTER_NAMES.map(name => line(name, RECIPES[name].meaning)),
].join('\n');

/** A mistake in the command line: its message is all there is to say. */
export class UsageError extends Error {}

/** The file and every option, or `help`. */
export function parseCommandLine(args: string[]): { file: string; options: Options } | 'help' {
  const { values, positionals } = parseStrictly(args);
  if (values.help) return 'help';
  const numbers = (Object.keys(NUMBERS) as NumberName[]).map(name => [name, parseNumber(name, values[name])]);
  const options = { ...Object.fromEntries(numbers), router: parseRouter(values.router) } as Options;
  if (options.tokens % options.sequence !== 0) {
    throw new UsageError(
      `--sequence: expected a divisor of ${options.tokens}, the tokens, got ${options.sequence}`,
    );
  }
  const [file] = positionals;
  if (file === undefined || positionals.length > 1) {
    throw new UsageError(`FILE: expected one text file, got ${positionals.length} (--help says more)`);
  }
  return { file, options };
}

function parseStrictly(args: string[]) {
  const texts = Object.fromEntries(
    [...Object.keys(NUMBERS), 'router'].map(name => [name, { type: 'string' as const }]),
  );
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

function parseNumber(name: NumberName, text: string | boolean | undefined): number | undefined {
  if (text === undefined) return NUMBERS[name][0];
  const value = Number(text);
  const whole = !FRACTIONAL.includes(name);
  if (!(value > 0 && value < Number.POSITIVE_INFINITY) || (whole && !Number.isInteger(value))) {
    throw new UsageError(`--${name}: expected a positive ${whole ? 'integer' : 'number'}, got ${text}`);
  }
  return value;
}

function parseRouter(text: string | boolean = DEFAULT_ROUTER): RouterName {
  const name = ROUTER_NAMES.find(name => name === text);
  if (name === undefined) {
    throw new UsageError(`--router: expected one of ${ROUTER_NAMES.join(', ')}, got ${text}`);
  }
  return name;
}
