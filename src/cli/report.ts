// `moe-kernels report`: a page about what `moe-kernels bench` has measured.

import { writeFile } from 'node:fs/promises';
import { renderReport } from '../../bench/report/page.ts';
import { readReported } from '../../bench/report/read.ts';
import { MoeError } from '../errors.ts';
import { type ExitCode, printLine } from './output.ts';

export async function report(files: readonly string[], { out }: { out: string }): Promise<ExitCode> {
  const results = readReported(files);
  const page = renderReport(results);
  if (out === '-') process.stdout.write(page);
  else {
    await writePage(out, page);
    printLine(`${out}: ${results.length} ${results.length === 1 ? 'result' : 'results'}`);
  }
  return 0;
}

async function writePage(out: string, page: string): Promise<void> {
  try {
    await writeFile(out, page);
  } catch (cause) {
    const { code = 'an error' } = cause as NodeJS.ErrnoException;
    throw new MoeError('ERR_FILE', `--out: expected a file that can be written, got ${code} for ${out}`, {
      cause,
    });
  }
}
