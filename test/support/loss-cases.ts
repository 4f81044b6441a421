// Which losses are tried on which routers, each by itself and all together.

import type { LossOptions } from '../reference/losses.ts';
import { sequenceLengthOf } from './router-call.ts';
import type { RouterVariant } from './routers.ts';

export type LossCase = [title: string, options: (tokens: number) => LossOptions];

/** Every ninth token, and the last few. */
const otherMask = (tokens: number) =>
  Int32Array.from({ length: tokens }, (_, t) => (t % 9 === 4 || t >= tokens - 2 ? 0 : 1));
const ALL = { loadBalance: 0.7, z: 0.3, importance: 1.5, load: 0.8 };

export const LOSSES: readonly LossCase[] = [
  ['load balance', () => ({ loadBalance: 0.7 })],
  ['load balance by sequence', tokens => ({ loadBalance: 2, sequenceLength: sequenceLengthOf(tokens) })],
  ['z', () => ({ z: 0.3 })],
  ['importance', () => ({ importance: 1.5 })],
  ['load', () => ({ load: 0.8 })],
  ['all', () => ALL],
  ['all but some tokens', tokens => ({ ...ALL, mask: otherMask(tokens) })],
  ['nothing counted', tokens => ({ ...ALL, mask: new Int32Array(tokens) })],
];

/** Those that a router has; undefined where none is left. */
export function lossesOf(
  { noise, expertChoice }: RouterVariant,
  options: LossOptions,
): LossOptions | undefined {
  const { loadBalance, load, ...rest } = options;
  const fitting = {
    ...(!expertChoice && loadBalance !== undefined && { loadBalance }),
    ...(noise?.kind === 'noisyTopK' && load !== undefined && { load }),
    ...rest,
  };
  const { mask, sequenceLength, ...coefficients } = fitting;
  return Object.keys(coefficients).length > 0 ? fitting : undefined;
}
