// `--baseline` and `--tolerance`: results beside those of the same cases in an earlier file.

import { caseKey } from '../../bench/campaign.ts';
import type { BenchResult } from '../../bench/result.ts';
import { isBench, readResults } from '../../bench/result-file.ts';
import { besideBaseline, type ComparedResult } from '../../bench/verdict.ts';
import { checkNotNegative } from '../check.ts';
import { badArgument } from '../errors.ts';

export interface ComparisonOptions {
  baseline?: string;
  tolerance: string;
}

/**
 * Sets a result beside that of the same case and processor in the baseline.
 * @param processors of the results to compare, of which alone the baseline may be
 */
export function comparison(
  { baseline: path, tolerance }: ComparisonOptions,
  processors: readonly string[],
): (now: BenchResult) => ComparedResult {
  const share = checkNotNegative('--tolerance', Number(tolerance)) / 100;
  if (path === undefined) return now => now;
  const before = readResults('--baseline', path).filter(isBench);
  const other = before.find(({ processor }) => !processors.includes(processor));
  if (other !== undefined) {
    const expected = `results of the same processor, ${[...new Set(processors)].join(' or ')}`;
    throw badArgument('ERR_UNSUPPORTED', '--baseline', expected, `those of ${other.processor} in ${path}`);
  }
  const byCase = new Map(before.map(result => [placedKey(result), result]));
  return now => besideBaseline(now, byCase.get(placedKey(now)), share);
}

function placedKey(result: BenchResult): string {
  return `${caseKey(result)} ${result.processor}`;
}
