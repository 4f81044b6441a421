// Results that a page shows, and the files that they stand in.

import { badArgument } from '../../src/errors.ts';
import type { BenchResult } from '../result.ts';
import { readResults } from '../result-file.ts';

export interface ReportedResult extends BenchResult {
  readonly file: string;
}

/** @throws MoeError ERR_FILE for a file that cannot be read or has no result, and for a line that is none */
export function readReported(files: readonly string[]): ReportedResult[] {
  return files.flatMap(file => {
    const results = readResults('file', file);
    if (results.length === 0)
      throw badArgument('ERR_FILE', 'file', 'results of moe-kernels bench', `none in ${file}`);
    return results.map(result => ({ ...result, file }));
  });
}
