// What a page shows, and the files that it stands in.

import { badArgument } from '../../src/errors.ts';
import type { ProfileResult } from '../profile.ts';
import type { BenchResult } from '../result.ts';
import { isBench, isProfile, type Result, readResults } from '../result-file.ts';

type InFile<R> = R & { readonly file: string };
export type ReportedResult = InFile<BenchResult>;
export type ReportedProfile = InFile<ProfileResult>;

export interface Reported {
  readonly results: readonly ReportedResult[];
  readonly profiles: readonly ReportedProfile[];
}

/** @throws MoeError ERR_FILE for a file that cannot be read or has no result, and for a line that is none */
export function readReported(files: readonly string[]): Reported {
  const contents = files.map(file => ({ file, results: readSome(file) }));
  const those = <R extends Result>(isOne: (result: Result) => result is R): InFile<R>[] =>
    contents.flatMap(({ file, results }) => results.filter(isOne).map(result => ({ ...result, file })));
  return { results: those(isBench), profiles: those(isProfile) };
}

function readSome(file: string): Result[] {
  const results = readResults('file', file);
  if (results.length > 0) return results;
  throw badArgument('ERR_FILE', 'file', 'results of moe-kernels bench or profile', `none in ${file}`);
}
