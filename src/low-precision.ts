// The rule for bfloat16 and float16: against the float64 reference on the rounded inputs, a result may have twice the
// error of a plain computation that stores every tensor in that dtype.

import { type Precision, plain, roundToBfloat16, roundToFloat16 } from '../test/reference/precision.ts';
import { relativeError } from './compare.ts';

export type LowPrecisionDType = 'bfloat16' | 'float16';

interface Format {
  readonly round: (value: number) => number;
  /** The largest relative error of one rounding. */
  readonly unitRoundoff: number;
}

const FORMATS: Readonly<Record<LowPrecisionDType, Format>> = {
  bfloat16: { round: roundToBfloat16, unitRoundoff: 2 ** -8 },
  float16: { round: roundToFloat16, unitRoundoff: 2 ** -11 },
};

export function plainPrecision(dtype: LowPrecisionDType): Precision {
  return plain(FORMATS[dtype].round);
}

/** The plain error counts as one rounding at least: on a tensor of a few elements it may happen to be smaller. */
export function lowPrecisionBound(
  dtype: LowPrecisionDType,
  exact: ArrayLike<number>,
  plain: ArrayLike<number>,
): number {
  return 2 * Math.max(relativeError(plain, exact), FORMATS[dtype].unitRoundoff);
}
