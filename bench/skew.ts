// Which experts each token gets, where that is not left to its router.

import { readFileSync } from 'node:fs';
import { describe } from '../src/dtype.ts';
import { badArgument, type MoeError } from '../src/errors.ts';
import { reading } from './file-access.ts';

/** Tokens, experts to choose from and experts per token. */
export interface SlotSizes {
  readonly tokens: number;
  readonly experts: number;
  readonly topK: number;
}

type Distribution = (sizes: SlotSizes) => Int32Array;

/**
 * Expert ids [T, K], each token's distinct, the same for the same arguments.
 * @param argument what the sentence of an error begins with
 * @param skew `uniform`, `zipf:S`, `one-hot` or `trace:FILE`
 * @throws MoeError ERR_INVALID_ARGUMENT for another skew, ERR_FILE for a trace that is not of these sizes
 */
export function skewedExperts(argument: string, skew: string, sizes: SlotSizes): Int32Array {
  const [kind, ...rest] = skew.split(':');
  const parameter = rest.join(':');
  if (skew === 'uniform') return byTurns(sizes);
  if (skew === 'one-hot') return alwaysTheSame(sizes);
  if (kind === 'zipf' && /^\d+(\.\d+)?$/.test(parameter)) return zipf(sizes, Number(parameter));
  if (kind === 'trace' && parameter !== '') return readTrace(argument, parameter, sizes);
  const expected = 'router, uniform, zipf:S with a number S, one-hot or trace:FILE';
  throw badArgument('ERR_INVALID_ARGUMENT', argument, expected, describe(skew));
}

/** Every expert gets as many rows as the others, or one more. */
const byTurns: Distribution = ({ tokens, experts, topK }) =>
  Int32Array.from({ length: tokens * topK }, (_, slot) => slot % experts);

/** The first K experts get all. */
const alwaysTheSame: Distribution = ({ tokens, topK }) =>
  Int32Array.from({ length: tokens * topK }, (_, slot) => slot % topK);

/**
 * Each token draws K experts without replacement, expert e with a probability in proportion to (e + 1)^−S: those with the least
 * −ln(u) · (e + 1)^S, u uniform (Efraimidis & Spirakis 2006).
 */
function zipf({ tokens, experts, topK }: SlotSizes, exponent: number): Int32Array {
  const random = uniformNumbers();
  const inverse = Float64Array.from({ length: experts }, (_, e) => (e + 1) ** exponent);
  const indices = new Int32Array(tokens * topK);
  for (let token = 0; token < tokens; token++) {
    const keys = inverse.map(weight => -Math.log(random()) * weight);
    const order = [...keys.keys()].sort((a, b) => keys[a]! - keys[b]!);
    indices.set(order.slice(0, topK), token * topK);
  }
  return indices;
}

/** In (0, 1), by xorshift (Marsaglia 2003). */
function uniformNumbers(): () => number {
  let state = 0x9e3779b9 | 0;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return ((state >>> 0) + 0.5) / 2 ** 32;
  };
}

/** A file of JSON: a list of tokens, each a list of K expert ids. */
function readTrace(argument: string, path: string, { tokens, experts, topK }: SlotSizes): Int32Array {
  const refused = (expected: string, got: string): MoeError =>
    badArgument('ERR_FILE', argument, `${expected} in ${path}`, got);
  const text = reading(argument, path, () => readFileSync(path, 'utf8'));
  const lists = parse(text);
  if (!Array.isArray(lists))
    throw refused('a list of lists of expert ids, as JSON,', describe(lists ?? text));
  if (lists.length !== tokens) throw refused(`${tokens} tokens`, `${lists.length}`);
  const isId = (id: unknown) => Number.isInteger(id) && (id as number) >= 0 && (id as number) < experts;
  for (const [token, ids] of lists.entries()) {
    if (Array.isArray(ids) && ids.length === topK && new Set(ids).size === topK && ids.every(isId)) continue;
    const expected = `${topK} distinct ids from 0 to ${experts - 1} for each token`;
    throw refused(expected, `${JSON.stringify(ids)} for token ${token}`);
  }
  return Int32Array.from((lists as number[][]).flat());
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
