// `moe-kernels report`: a page about what `moe-kernels bench` and `moe-kernels profile` have measured.

import { writeFileSync } from 'node:fs';
import { writing } from '../../bench/file-access.ts';
import { renderReport } from '../../bench/report/page.ts';
import { type ReportedResult, readReported } from '../../bench/report/read.ts';
import { amount } from '../../bench/report/words.ts';
import { countVerdicts } from '../../bench/verdict.ts';
import type { ComparisonOptions } from './comparison.ts';
import { type ExitCode, printJson, printLine } from './output.ts';

interface ReportOptions extends ComparisonOptions {
  out: string;
  json: boolean;
}

export async function report(files: readonly string[], options: ReportOptions): Promise<ExitCode> {
  const { out, json, baseline } = options;
  const reported = readReported(files);
  const { profiles } = reported;
  const results = baseline === undefined ? reported.results : await compared(reported.results, options);
  const page = renderReport(results, profiles);
  if (out === '-') {
    process.stdout.write(page);
    return 0;
  }
  writing('--out', out, () => writeFileSync(out, page));
  const counts = { results: results.length, profiles: profiles.length };
  if (json)
    printJson({ out, ...counts, ...(baseline !== undefined && { verdicts: countVerdicts(results) }) });
  else printLine(`${out}: ${describeCounts(counts)}`);
  return 0;
}

/** Cases need the addon, which a page alone does without. */
async function compared(
  results: readonly ReportedResult[],
  options: ComparisonOptions,
): Promise<ReportedResult[]> {
  const { comparison } = await import('./comparison.ts');
  const compare = comparison(options, results);
  return results.map(result => ({ ...compare(result), file: result.file }));
}

function describeCounts(counts: Readonly<Record<string, number>>): string {
  return Object.entries(counts)
    .filter(([, count]) => count > 0)
    .map(([what, count]) => amount(count, what))
    .join(', ');
}
