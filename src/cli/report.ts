// `moe-kernels report`: a page about what `moe-kernels bench` and `moe-kernels profile` have measured.

import { writeFileSync } from 'node:fs';
import { writing } from '../../bench/file-access.ts';
import { renderReport } from '../../bench/report/page.ts';
import { readReported } from '../../bench/report/read.ts';
import { type ExitCode, printLine } from './output.ts';

export async function report(files: readonly string[], { out }: { out: string }): Promise<ExitCode> {
  const { results, profiles } = readReported(files);
  const page = renderReport(results, profiles);
  if (out === '-') process.stdout.write(page);
  else {
    writing('--out', out, () => writeFileSync(out, page));
    const counts = [counted(results.length, 'result'), counted(profiles.length, 'profile')];
    printLine(`${out}: ${counts.filter(Boolean).join(', ')}`);
  }
  return 0;
}

function counted(count: number, what: string): string {
  return count === 0 ? '' : `${count} ${what}${count === 1 ? '' : 's'}`;
}
