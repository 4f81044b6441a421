// What a page shows, and the files that it stands in.

import { badArgument } from '../../src/errors.ts';
import type { ProfileResult } from '../profile.ts';
import { isBench, isProfile, type Result, readResults } from '../result-file.ts';
import type { ComparedResult } from '../verdict.ts';

type InFile<R> = R & { readonly file: string };
export type ReportedResult = InFile<ComparedResult>;
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
  // What a line says of a comparison was another one.
  return {
    results: those(isBench).map(result => ({ ...result, baseline: undefined })),
    profiles: those(isProfile),
  };
}

function readSome(file: string): Result[] {
  const results = readResults('file', file);
  if (results.length > 0) return results;
  throw badArgument('ERR_FILE', 'file', 'results of moe-kernels bench or profile', `none in ${file}`);
}
