// One projection of grouped rows, W x + b + s·B(A x): a weight, a bias and low-rank pairs beside it (LoRA, arXiv 2106.09685).

import { type Groups, referenceDgrad, referenceMatmul, referenceWgrad } from './grouped-matmul.ts';
import { type Precision, sum, unrounded } from './precision.ts';

export interface LowRankPair {
  rank: number;
  /** [E, r, C] */
  a: Float64Array;
  /** [E, N, r] */
  b: Float64Array;
}

export interface Projection {
  groups: Groups;
  /** [E, N, C] */
  weight: Float64Array;
  /** [E, N] */
  bias: Float64Array | undefined;
  pairs: readonly LowRankPair[];
  /** s */
  scale: number;
}

export interface Projected {
  /** [R, N] */
  out: Float64Array;
  /** A x of each pair: [R, r] */
  low: readonly Float64Array[];
}

export interface ProjectionGradients {
  /** [R, C] */
  dRows: Float64Array;
  dWeight: Float64Array;
  dBias: Float64Array;
  pairs: readonly { dA: Float64Array; dB: Float64Array }[];
}

export function referenceProjection(
  rows: Float64Array,
  { groups, weight, bias, pairs, scale }: Projection,
  precision: Precision,
): Projected {
  const low = pairs.map(({ rank, a }) =>
    referenceMatmul(rows, a, { ...groups, width: rank }, undefined, precision),
  );
  const added = pairs.map(({ rank, b }, i) =>
    times(scale, referenceMatmul(low[i]!, b, { ...groups, inner: rank }, undefined, unrounded(precision))),
  );
  const product = referenceMatmul(rows, weight, groups, bias, unrounded(precision));
  return { out: sum(precision, product, ...added), low };
}

export function referenceProjectionBackward(
  dOut: Float64Array,
  rows: Float64Array,
  low: readonly Float64Array[],
  { groups, weight, pairs, scale }: Projection,
  precision: Precision,
): ProjectionGradients {
  const exact = unrounded(precision);
  const backward = pairs.map(({ rank, a, b }, i) => {
    const [aGroups, bGroups] = [
      { ...groups, width: rank },
      { ...groups, inner: rank },
    ];
    const dLow = times(scale, referenceDgrad(dOut, b, bGroups, exact)).map(precision.round);
    const dB = times(scale, referenceWgrad(dOut, low[i]!, bGroups, exact).dWeight).map(precision.round);
    const dA = referenceWgrad(dLow, rows, aGroups, precision).dWeight;
    return { dA, dB, dRows: referenceDgrad(dLow, a, aGroups, exact) };
  });
  const dRows = referenceDgrad(dOut, weight, groups, exact);
  return {
    dRows: sum(precision, dRows, ...backward.map(pair => pair.dRows)),
    ...referenceWgrad(dOut, rows, groups, precision),
    pairs: backward,
  };
}

const times = (factor: number, values: Float64Array) => values.map(value => factor * value);
