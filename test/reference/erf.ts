// The error function to float64 accuracy, which the exact gelu needs and JavaScript lacks.

/** erf(x) = 2/√π · e^(−x²) · Σ 2ⁿ x^(2n+1) / (2n+1)!!: all terms of one sign, so nothing cancels. */
function series(x: number): number {
  let term = x;
  let sum = x;
  for (let n = 1; term > sum * 1e-17; n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

/** erfc(x) = e^(−x²)/√π · 1/(x + (1/2)/(x + (2/2)/(x + (3/2)/(x + …)))), evaluated from its 80th level. */
function continuedFraction(x: number): number {
  let tail = x;
  for (let n = 80; n > 0; n--) tail = x + n / 2 / tail;
  return Math.exp(-x * x) / (Math.sqrt(Math.PI) * tail);
}

/** 1 − erf(x), without cancellation for large x. */
export function erfc(x: number): number {
  if (Number.isNaN(x)) return x;
  const magnitude = Math.abs(x);
  const tail = magnitude < 2 ? 1 - series(magnitude) : continuedFraction(magnitude);
  return x < 0 ? 2 - tail : tail;
}

/** 2/√π · ∫₀ˣ e^(−t²) dt */
export function erf(x: number): number {
  const magnitude = Math.abs(x);
  if (Number.isNaN(x)) return x;
  const value = magnitude === 0 ? 0 : magnitude < 2 ? series(magnitude) : 1 - continuedFraction(magnitude);
  return x < 0 ? -value : value;
}
