// Values of options as they stand on a command line.

import { checkInteger, checkOneOf } from '../check.ts';
import { describe } from '../dtype.ts';
import { badArgument } from '../errors.ts';

/** Some of the choices, separated by commas; each counts once. */
export function parseList<T extends string>(name: string, text: string, choices: readonly T[]): T[] {
  return [...new Set(text.split(',').map(part => checkOneOf(name, part, choices)))];
}

/** Integers from 1, separated by commas; each counts once. */
export function parseCounts(name: string, text: string, most?: number): number[] {
  return [...new Set(text.split(',').map(part => checkInteger(name, Number(part), 1, most)))];
}

export function checkPositive(name: string, text: string): number {
  const value = Number(text);
  if (value > 0 && value < Infinity) return value;
  throw badArgument('ERR_INVALID_ARGUMENT', name, 'a positive number', describe(text));
}
