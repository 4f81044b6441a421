// `moe-kernels verify`: every file gets a verdict, whatever became of the others.

import type { Comparison } from '../compare.ts';
import type { FloatDType } from '../dtype.ts';
import { MoeError } from '../errors.ts';
import { readGolden } from '../golden.ts';
import { checkDevice, type DeviceName } from '../tensor.ts';
import { verifyCase } from '../verify.ts';
import {
  describeError,
  type ErrorDescription,
  type ExitCode,
  printComparisons,
  printJson,
  printLine,
  reportError,
} from './output.ts';

interface VerifyOptions {
  device: DeviceName;
  dtype: FloatDType;
  json: boolean;
}

type Verdict = 'holds' | 'does not hold' | 'unsupported' | 'unusable';

interface Report {
  readonly file: string;
  readonly case?: string;
  readonly verdict: Verdict;
  readonly tensors?: readonly Comparison[];
  readonly error?: ErrorDescription;
}

export async function verify(files: readonly string[], options: VerifyOptions): Promise<ExitCode> {
  const { device, dtype, json } = options;
  checkDevice('--device', device);
  const verdicts = new Set<Verdict>();
  for (const file of files) {
    const report = await verifyFile(file, options);
    verdicts.add(report.verdict);
    if (json) printJson({ device, dtype, ...report });
    else printReport(report, options);
  }
  if (verdicts.has('does not hold')) return 1;
  return verdicts.has('unsupported') || verdicts.has('unusable') ? 2 : 0;
}

async function verifyFile(file: string, options: VerifyOptions): Promise<Report> {
  try {
    const golden = await readGolden(file);
    const tensors = await verifyCase(golden, options);
    const verdict = tensors.every(({ holds }) => holds) ? 'holds' : 'does not hold';
    return { file, case: golden.name, verdict, tensors };
  } catch (error) {
    if (!(error instanceof MoeError)) throw error;
    reportError(error, options.json);
    const verdict = error.code === 'ERR_UNSUPPORTED' ? 'unsupported' : 'unusable';
    return { file, verdict, error: describeError(error) };
  }
}

function printReport({ file, verdict, case: name, tensors }: Report, { device, dtype }: VerifyOptions): void {
  if (!tensors) {
    printLine(`${file}: ${verdict}`);
    return;
  }
  printLine(`${file} (${name}, ${dtype} on ${device}): ${verdict}`);
  printComparisons(tensors);
}
