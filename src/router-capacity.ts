// How many rows an expert takes: of the tokens that chose it (capacity), or of those that it chooses (expert choice).

import { checkFinite, checkInteger, checkKeys, checkOneOf } from './check.ts';
import { badArgument } from './errors.ts';

export const DROP_POLICIES = ['position', 'probability'] as const;
export const DROPPED = ['zero', 'residual'] as const;
export const RUNS = ['batch', 'sequence'] as const;

/** A number of rows for each expert in each run of tokens. Exactly one of `tokensPerExpert` and `factor` is given. */
export interface RowsPerExpert {
  tokensPerExpert?: number;
  /** Times the rows each expert would have if all had the same. */
  factor?: number;
  /** The run it holds for: all tokens of the call (default), or each sequence by itself. */
  per?: (typeof RUNS)[number];
  /** What a token none of whose slots is served becomes: zeros (default), or itself: y[t] = x[t]. */
  dropped?: (typeof DROPPED)[number];
}

/**
 * At most so many rows per expert (GShard, arXiv 2006.16668; Switch, arXiv 2101.03961): `tokensPerExpert`, or
 * ⌈factor · n · K / E⌉ of a run's n tokens, at least 1. What does not fit is dropped: it has weight 0 and contributes nothing.
 */
export interface RouterCapacity extends RowsPerExpert {
  /** Who stays: the earlier tokens (`position`, default), or the slots with the largest weights (`probability`). */
  dropPolicy?: (typeof DROP_POLICIES)[number];
}

/**
 * Every expert takes so many tokens of each run, those with the largest weights, ties to the earlier one (Zhou et al. 2022,
 * arXiv 2202.09368): `tokensPerExpert`, or ⌈factor · n / E⌉ of a run's n tokens, at least 1.
 */
export type ExpertChoice = RowsPerExpert;

/** Either of them, with the defaults filled in. */
export interface ResolvedCapacity extends Readonly<RowsPerExpert> {
  readonly per: (typeof RUNS)[number];
  readonly dropped: (typeof DROPPED)[number];
  readonly dropPolicy: (typeof DROP_POLICIES)[number];
}

const ROWS_KEYS = ['tokensPerExpert', 'factor', 'per', 'dropped'];

export function resolveCapacity(name: string, capacity: RouterCapacity): ResolvedCapacity {
  checkKeys(name, capacity, [...ROWS_KEYS, 'dropPolicy']);
  const dropPolicy = checkOneOf(`${name}.dropPolicy`, capacity.dropPolicy ?? 'position', DROP_POLICIES);
  return { ...resolveRows(name, capacity), dropPolicy };
}

export function resolveExpertChoice(name: string, choice: ExpertChoice): ResolvedCapacity {
  checkKeys(name, choice, ROWS_KEYS);
  return { ...resolveRows(name, choice), dropPolicy: 'probability' };
}

function resolveRows(name: string, rows: RowsPerExpert): Omit<ResolvedCapacity, 'dropPolicy'> {
  const { tokensPerExpert, factor } = rows;
  if ((tokensPerExpert === undefined) === (factor === undefined)) {
    const got = factor === undefined ? 'neither' : 'both';
    throw badArgument('ERR_INVALID_ARGUMENT', name, 'either tokensPerExpert or factor', got);
  }
  if (tokensPerExpert !== undefined) checkInteger(`${name}.tokensPerExpert`, tokensPerExpert, 1);
  else if (checkFinite(`${name}.factor`, factor) <= 0) {
    throw badArgument('ERR_INVALID_ARGUMENT', `${name}.factor`, 'a number above 0', String(factor));
  }
  return {
    ...(tokensPerExpert === undefined ? { factor } : { tokensPerExpert }),
    per: checkOneOf(`${name}.per`, rows.per ?? 'batch', RUNS),
    dropped: checkOneOf(`${name}.dropped`, rows.dropped ?? 'zero', DROPPED),
  };
}

/** C, for runs of so many slots over all experts. */
export function rowsPerExpert(capacity: ResolvedCapacity, slots: number, experts: number): number {
  const { tokensPerExpert, factor } = capacity;
  if (tokensPerExpert !== undefined) return tokensPerExpert;
  const exact = (factor! * slots) / experts;
  // 1.1 · 10 is 11.000000000000002: what rounding alone lifts over an integer is that integer.
  const rows = Math.ceil(exact * (1 - 4 * Number.EPSILON));
  return Math.min(Math.max(rows, 1), 2 ** 31 - 1);
}
