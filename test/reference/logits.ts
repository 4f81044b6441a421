// From the router's raw logits to those that are scored: averaged over sequences, with noise added, and the way back.

import type { RouterNoise } from '../../src/router-noise.ts';
import { annealed, gumbel, normalQuantile, uniforms } from './noise.ts';
import { FLOAT64, type Precision, roundRouting } from './precision.ts';
import { isMasked, type ReferenceRouter, runsOf } from './router.ts';
import { logistic, softplus } from './score.ts';

export interface LogitGradients {
  /** [T, E'] */
  dLogits: Float64Array;
  /** [T, E'], with noisy top-k that is on */
  dNoiseLogits?: Float64Array;
}

export interface ScoredLogits {
  /** [T, E'] */
  logits: Float64Array;
  /** [T, E'], averaged where the logits are; with noisy top-k that is on */
  noiseLogits?: Float64Array;
  /** The gradients of the raw logits and noise logits, of those of the two above, each as if the other were fixed. */
  toRaw(of: LogitGradients): LogitGradients;
}

/** What the standard numbers of each kind are multiplied by at full strength. */
const fullStrength = (noise: RouterNoise) =>
  noise.kind === 'jitter' ? noise.eps : noise.kind === 'gumbel' ? (noise.scale ?? 1) : 1;

/** The noise of a call, unless it has none or it has faded: its kind, its strength at this step, and its quantiles. */
export function noiseOf({ noise, step }: ReferenceRouter) {
  if (!noise || step === undefined) return undefined;
  const strength = fullStrength(noise) * annealed(noise, step);
  if (strength === 0) return undefined;
  const draw = (rows: number, columns: number) => uniforms(noise.seed ?? 0, step, rows, columns);
  return { kind: noise.kind, strength, draw };
}

/** What jitter multiplies the router's x [T, H] by. */
export function jitterFactors(
  router: ReferenceRouter,
  tokens: number,
  hidden: number,
): Float64Array | undefined {
  const on = noiseOf(router);
  if (on?.kind !== 'jitter') return undefined;
  return on.draw(tokens, hidden).map(u => 1 + on.strength * (2 * u - 1));
}

/**
 * The random part of every scored logit [T, E'], before what it is multiplied by: standard Gumbel or normal numbers. Tokens
 * that are routed as one sequence have the same.
 */
export function logitNoise(
  router: ReferenceRouter,
  tokens: number,
  experts: number,
): Float64Array | undefined {
  const on = noiseOf(router);
  if (!on || on.kind === 'jitter') return undefined;
  const length = router.level === 'sequence' ? router.sequenceLength! : 1;
  const numbers = on.draw(tokens / length, experts).map(on.kind === 'gumbel' ? gumbel : normalQuantile);
  const rowOf = (token: number) => Math.floor(token / length) * experts;
  return Float64Array.from(
    { length: tokens * experts },
    (_, i) => numbers[rowOf(Math.floor(i / experts)) + (i % experts)]!,
  );
}

export function referenceScoredLogits(
  router: ReferenceRouter,
  raw: Float64Array,
  rawNoise: Float64Array | undefined,
  experts: number,
  precision: Precision = FLOAT64,
): ScoredLogits {
  const average = (values: Float64Array) => averageSequences(router, values, experts, precision, 'forward');
  const back = (gradient: Float64Array) => averageSequences(router, gradient, experts, precision, 'backward');
  const mean = average(raw);
  const on = noiseOf(router);
  const numbers = logitNoise(router, raw.length / experts, experts);
  if (!on || !numbers) return { logits: mean, toRaw: ({ dLogits }) => ({ dLogits: back(dLogits) }) };
  const noiseLogits = on.kind === 'noisyTopK' ? average(rawNoise!) : undefined;
  const deviation = (i: number) => on.strength * (noiseLogits ? softplus(noiseLogits[i]!) : 1);
  const noisy = mean.map((z, i) => z + deviation(i) * numbers[i]!);
  const logits = roundRouting(precision, noisy);
  if (!noiseLogits) return { logits, toRaw: ({ dLogits }) => ({ dLogits: back(dLogits) }) };
  return {
    ...{ logits, noiseLogits },
    toRaw: ({ dLogits, dNoiseLogits }) => {
      const slope = (i: number) => on.strength * logistic(noiseLogits[i]!) * numbers[i]!;
      const through = dLogits.map((d, i) => d * slope(i) + (dNoiseLogits?.[i] ?? 0));
      return { dLogits: back(dLogits), dNoiseLogits: back(roundRouting(precision, through)) };
    },
  };
}

/**
 * Forward: every token's logits become the mean of those of its sequence's tokens that are not masked, 0 where all are.
 * Backward: a token's gradient is its share of the sum over its sequence, none where it is masked.
 */
function averageSequences(
  router: ReferenceRouter,
  values: Float64Array,
  experts: number,
  precision: Precision,
  direction: 'forward' | 'backward',
): Float64Array {
  if (router.level !== 'sequence') return values;
  const out = new Float64Array(values.length);
  const round = precision.float32Sums ? Math.fround : (value: number) => value;
  for (const { begin, end } of runsOf(values.length / experts, router.sequenceLength)) {
    const all = Array.from({ length: end - begin }, (_, i) => begin + i);
    const counted = all.filter(token => !isMasked(router, token));
    const [from, to] = direction === 'forward' ? [counted, all] : [all, counted];
    for (let e = 0; e < experts; e++) {
      const sum = from.reduce((total, t) => round(total + values[t * experts + e]!), 0);
      for (const t of to) out[t * experts + e] = round(sum / Math.max(counted.length, 1));
    }
  }
  return out;
}
