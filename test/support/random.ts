// Seeded random numbers: the same tests see the same inputs on every run.

export interface Random {
  /** In [0, 1). */
  uniform(): number;
  /** In 0 … below − 1. */
  integer(below: number): number;
  /** Normally distributed, with mean 0 and the given standard deviation. */
  normals(count: number, deviation?: number): Float32Array;
}

/** Three rounds of a 32-bit mixer over a counter (splitmix32). */
export function seeded(seed: number): Random {
  let state = seed | 0;
  const uniform = () => {
    state = (state + 0x9e3779b9) | 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32;
  };
  // Box–Muller; 1 − u keeps the logarithm finite.
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return {
    uniform,
    integer: below => Math.floor(uniform() * below),
    normals: (count, deviation = 1) => Float32Array.from({ length: count }, () => deviation * normal()),
  };
}
