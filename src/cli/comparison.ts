// `--baseline` and `--tolerance`: results beside those of the same cases in an earlier file.

import { caseKey } from '../../bench/campaign.ts';
import type { Machine } from '../../bench/machine.ts';
import type { BenchResult } from '../../bench/result.ts';
import { isBench, readResults } from '../../bench/result-file.ts';
import { besideBaseline, type ComparedResult } from '../../bench/verdict.ts';
import { checkNotNegative } from '../check.ts';
import { badArgument } from '../errors.ts';
import type { DeviceName } from '../tensor.ts';

export interface ComparisonOptions {
  baseline?: string;
  tolerance: string;
}

/** What results were measured on. */
export interface Place extends Pick<Machine, 'processor' | 'deviceName'> {
  readonly device: DeviceName;
}

/**
 * Sets a result beside that of the same case and place in the baseline.
 * @param places of the results to compare, of whose processors and GPUs alone the baseline may be
 */
export function comparison(
  { baseline: path, tolerance }: ComparisonOptions,
  places: readonly Place[],
): (now: BenchResult) => ComparedResult {
  const share = checkNotNegative('--tolerance', Number(tolerance)) / 100;
  if (path === undefined) return now => now;
  const before = readResults('--baseline', path).filter(isBench);
  const expect = (what: string, known: readonly (string | undefined)[], got: string | undefined) => {
    if (known.length === 0 || known.includes(got)) return;
    const expected = `results of the same ${what}, ${[...new Set(known)].join(' or ')}`;
    throw badArgument('ERR_UNSUPPORTED', '--baseline', expected, `those of ${got ?? 'another'} in ${path}`);
  };
  for (const { processor, device, deviceName } of before) {
    const there = places.filter(place => place.device === device);
    expect(
      'processor',
      places.map(place => place.processor),
      processor,
    );
    expect(
      device,
      there.map(place => place.deviceName),
      deviceName,
    );
  }
  const byCase = new Map(before.map(result => [placedKey(result), result]));
  return now => besideBaseline(now, byCase.get(placedKey(now)), share);
}

function placedKey(result: BenchResult): string {
  return [caseKey(result), result.processor, result.deviceName].join(' ');
}
