// A campaign written down: a file in JSON or YAML whose keys are the options of `moe-kernels bench`.

import { readFileSync } from 'node:fs';
import { parse, YAMLParseError } from 'yaml';
import { reading } from '../../bench/file-access.ts';
import { checkKeys } from '../check.ts';
import { describe } from '../dtype.ts';
import { badArgument } from '../errors.ts';

/** Of a plural also a list. */
const KEYS = {
  ...{ shape: 'strings', activation: 'string', tokens: 'numbers', router: 'strings', skew: 'strings' },
  ...{ dtype: 'strings', pass: 'strings', stage: 'strings', device: 'string', graph: 'string' },
  ...{ threads: 'numbers', cache: 'strings' },
  ...{ minTime: 'number', maxTime: 'number', precision: 'number', vs: 'strings', rounds: 'number' },
} as const;

/** The values as they would stand on the command line. */
export type Plan = ReadonlyMap<string, readonly string[]>;

/** @throws MoeError ERR_FILE, or ERR_INVALID_ARGUMENT if a key is unknown or its value of the wrong type */
export function readPlan(path: string): Plan {
  const plan = parsePlan(
    path,
    reading('--plan', path, () => readFileSync(path, 'utf8')),
  );
  checkKeys(path, plan, Object.keys(KEYS));
  return new Map(
    Object.entries(KEYS)
      .filter(([key]) => Object.hasOwn(plan as object, key))
      .map(([key, kind]) => [
        key,
        readValues(`${path}: ${key}`, (plan as Record<string, unknown>)[key], kind),
      ]),
  );
}

function readValues(name: string, value: unknown, kind: string): string[] {
  const plural = kind.endsWith('s');
  const type = plural ? kind.slice(0, -1) : kind;
  const values: unknown[] = plural && Array.isArray(value) ? value : [value];
  if (values.length > 0 && values.every(one => typeof one === type)) return values.map(String);
  const expected = `a ${type}${plural ? ' or a list of them' : ''}`;
  throw badArgument('ERR_INVALID_ARGUMENT', name, expected, describe(value));
}

/** JSON is YAML. */
function parsePlan(path: string, text: string): unknown {
  try {
    return parse(text, { logLevel: 'error', prettyErrors: false });
  } catch (error) {
    const { message } = error as Error;
    const where = error instanceof YAMLParseError ? ` (at character ${error.pos[0]})` : '';
    throw badArgument('ERR_FILE', path, 'JSON or YAML', `${message}${where}`);
  }
}
