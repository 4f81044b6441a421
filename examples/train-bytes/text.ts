// A text as bytes: its training and validation parts, the batches drawn from them, and its unigram entropy.

import type { Batch } from './model.ts';

export interface Text {
  readonly training: Uint8Array;
  readonly validation: Uint8Array;
}

/** The last tenth is kept for validation. */
export function splitText(bytes: Uint8Array): Text {
  const cut = Math.floor(bytes.length * 0.9);
  return { training: bytes.subarray(0, cut), validation: bytes.subarray(cut) };
}

/** The bytes at `positions`, each with the `context` bytes before it; a position must be at least `context`. */
export function batchAt(bytes: Uint8Array, positions: readonly number[], context: number): Batch {
  const contexts = new Uint8Array(positions.length * context);
  const targets = new Uint8Array(positions.length);
  positions.forEach((position, row) => {
    contexts.set(bytes.subarray(position - context, position), row * context);
    targets[row] = bytes[position]!;
  });
  return { contexts, targets };
}

export function randomBatch(bytes: Uint8Array, tokens: number, context: number, random: () => number): Batch {
  const positions = Array.from(
    { length: tokens },
    () => context + Math.floor(random() * (bytes.length - context)),
  );
  return batchAt(bytes, positions, context);
}

/** Batches at up to `limit` positions, spread evenly over all of `bytes`. */
export function* evenBatches(
  bytes: Uint8Array,
  tokens: number,
  context: number,
  limit: number,
): Generator<Batch> {
  const stride = Math.max(1, (bytes.length - context) / limit);
  const positions: number[] = [];
  for (let at = context; at < bytes.length && positions.length < limit; at += stride)
    positions.push(Math.floor(at));
  for (let i = 0; i < positions.length; i += tokens) {
    yield batchAt(bytes, positions.slice(i, i + tokens), context);
  }
}

/** −Σ p·ln p over the frequencies of single bytes, in nats: the best loss of a model that ignores the context. */
export function unigramEntropy(bytes: Uint8Array): number {
  const counts = new Float64Array(256);
  for (const byte of bytes) counts[byte] = counts[byte]! + 1;
  return counts.reduce(
    (sum, n) => (n === 0 ? sum : sum - (n / bytes.length) * Math.log(n / bytes.length)),
    0,
  );
}
