// The differentiable steps around the MoE layer that are too small to be kernels, each with its gradient.

/** What {@link rmsNorm} returns and its gradient needs: the rows, and 1/rms of each. */
export interface Normed {
  readonly out: Float32Array;
  readonly inverseRms: Float32Array;
}

/** Each row divided by its root mean square (Zhang & Sennrich 2019), without a gain: the next projection has one. */
export function rmsNorm(x: Float32Array, width: number): Normed {
  const out = new Float32Array(x.length);
  const inverseRms = new Float32Array(x.length / width);
  for (let row = 0; row < inverseRms.length; row++) {
    const start = row * width;
    let squares = 0;
    for (let i = start; i < start + width; i++) squares += x[i]! * x[i]!;
    const scale = 1 / Math.sqrt(squares / width + 1e-6);
    for (let i = start; i < start + width; i++) out[i] = x[i]! * scale;
    inverseRms[row] = scale;
  }
  return { out, inverseRms };
}

/** dx = (dy − y · mean(dy · y)) / rms */
export function rmsNormBackward({ out, inverseRms }: Normed, dOut: Float32Array): Float32Array {
  const dx = new Float32Array(out.length);
  const width = out.length / inverseRms.length;
  inverseRms.forEach((scale, row) => {
    const start = row * width;
    let dot = 0;
    for (let i = start; i < start + width; i++) dot += dOut[i]! * out[i]!;
    for (let i = start; i < start + width; i++) dx[i] = scale * (dOut[i]! - (out[i]! * dot) / width);
  });
  return dx;
}

export function add(a: Float32Array, b: Float32Array): Float32Array {
  return a.map((value, i) => value + b[i]!);
}

/** A scalar loss and its gradient to the logits it was computed from. */
export interface Loss {
  readonly value: number;
  readonly dLogits: Float32Array;
}

function softmaxRows(logits: Float32Array, width: number): Float32Array {
  const out = new Float32Array(logits.length);
  for (let start = 0; start < logits.length; start += width) {
    let max = Number.NEGATIVE_INFINITY;
    for (let i = start; i < start + width; i++) max = Math.max(max, logits[i]!);
    let sum = 0;
    for (let i = start; i < start + width; i++) {
      const e = Math.exp(logits[i]! - max);
      out[i] = e;
      sum += e;
    }
    for (let i = start; i < start + width; i++) out[i] = out[i]! / sum;
  }
  return out;
}

/** Mean over rows of −ln softmax(logits)[target], in nats. */
export function crossEntropy(logits: Float32Array, targets: Uint8Array): Loss {
  const width = logits.length / targets.length;
  const dLogits = softmaxRows(logits, width);
  let total = 0;
  targets.forEach((target, row) => {
    const i = row * width + target;
    total -= Math.log(dLogits[i]!);
    dLogits[i] = dLogits[i]! - 1;
  });
  for (let i = 0; i < dLogits.length; i++) dLogits[i] = dLogits[i]! / targets.length;
  return { value: total / targets.length, dLogits };
}

/** xorshift32: a small seeded generator of numbers in [0, 1), so that a run can be repeated. */
export function seededRandom(seed: number): () => number {
  let state = (seed * 2654435761) >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state / 2 ** 32;
  };
}
