// Which results are of this machine, as it is now.

import { backendInfo } from '../src/device.ts';
import { packageVersion } from '../src/package.ts';
import { caseKey } from './campaign.ts';
import { processorName } from './processor.ts';
import type { Result } from './result-file.ts';

/** By their cases. Results of another version, or of another machine, say nothing about this one. */
export function ofThisMachine<R extends Result>(results: readonly R[]): Map<string, R> {
  return new Map(results.filter(isOfThisMachine).map(result => [caseKey(result), result]));
}

function isOfThisMachine({ processor, version, instructionSet }: Result): boolean {
  return (
    processor === processorName() &&
    version === packageVersion() &&
    instructionSet === backendInfo().instructionSet
  );
}
