// `moe-kernels report`: a page about what `moe-kernels bench` has measured.

import { writeFileSync } from 'node:fs';
import { writing } from '../../bench/file-access.ts';
import { renderReport } from '../../bench/report/page.ts';
import { readReported } from '../../bench/report/read.ts';
import { type ExitCode, printLine } from './output.ts';

export async function report(files: readonly string[], { out }: { out: string }): Promise<ExitCode> {
  const results = readReported(files);
  const page = renderReport(results);
  if (out === '-') process.stdout.write(page);
  else {
    writing('--out', out, () => writeFileSync(out, page));
    printLine(`${out}: ${results.length} ${results.length === 1 ? 'result' : 'results'}`);
  }
  return 0;
}
