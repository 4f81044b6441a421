// Random numbers by counter, in float64: Philox4x32-10 (Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3),
// the distributions drawn from it, and how strong the noise is at a step. Written apart from the kernels, to hold them to.

import type { RouterNoise } from '../../src/router-noise.ts';
import { erfc } from './erf.ts';

type Words = [number, number, number, number];

const low = (value: bigint) => Number(BigInt.asUintN(32, value));
const high = (value: bigint) => low(value >> 32n);
const xor = (a: number, b: number, c: number) => (a ^ b ^ c) >>> 0;

export function philox([c0, c1, c2, c3]: Words, [k0, k1]: [number, number]): Words {
  for (let round = 0; round < 10; round++) {
    const first = 0xd2511f53n * BigInt(c0);
    const second = 0xcd9e8d57n * BigInt(c2);
    [c0, c1, c2, c3] = [xor(high(second), c1, k0), low(second), xor(high(first), c3, k1), low(first)];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/** An odd multiple of 2⁻²⁴: in (0, 1), and exact in float32. */
export const uniformOf = (word: number) => ((word >>> 9) + 0.5) * 2 ** -23;

/** The uniform number of each element of a matrix [rows, columns]. */
export function uniforms(seed: number, step: number, rows: number, columns: number): Float64Array {
  const halves = (value: number): [number, number] => [low(BigInt(value)), high(BigInt(value))];
  const out = new Float64Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column += 4) {
      const words = philox([column >>> 2, row, ...halves(step)], halves(seed));
      const here = words.slice(0, columns - column).map(uniformOf);
      out.set(here, row * columns + column);
    }
  }
  return out;
}

/** The standard Gumbel distribution at the quantile u. */
export const gumbel = (u: number) => -Math.log(-Math.log(u));

const RECIPROCAL_ROOT_OF_TWO_PI = 1 / Math.sqrt(2 * Math.PI);
/** φ, the standard normal density. */
export const normalDensity = (x: number) => RECIPROCAL_ROOT_OF_TWO_PI * Math.exp(-0.5 * x * x);
/** Φ(x), without cancellation for negative x. */
export const normalShare = (x: number) => erfc(-x * Math.SQRT1_2) / 2;

/**
 * Φ⁻¹(u) by Newton's method on ln Φ(−x) = ln min(u, 1 − u): a concave function of x, on which every step from 0 overshoots
 * to the right once and then only approaches.
 */
export function normalQuantile(u: number): number {
  const share = Math.min(u, 1 - u);
  let x = 0;
  for (let step = 0; step < 40; step++) {
    const tail = normalShare(-x);
    const move = (Math.log(tail / share) * tail) / normalDensity(x);
    x += move;
    if (Math.abs(move) <= 1e-15 * x) break;
  }
  return u < 0.5 ? -x : x;
}

/** What the noise's own strength is multiplied by at a step. */
export function annealed(noise: RouterNoise, step: number): number {
  if (!noise.anneal) return 1;
  const { steps, to = 0, shape = 'linear' } = noise.anneal;
  const progress = Math.min(step / steps, 1);
  switch (shape) {
    case 'linear':
      return 1 + (to - 1) * progress;
    case 'cosine':
      return to + ((1 - to) * (1 + Math.cos(Math.PI * progress))) / 2;
    case 'exponential':
      return to ** progress;
  }
}
