// A text as bytes: its training and validation parts, the batches drawn from them, and its unigram entropy.

import type { Batch } from './model.ts';

export interface Text {
  readonly training: Uint8Array;
  readonly validation: Uint8Array;
}

/** What a batch is made of. */
export interface BatchShape {
  /** T, bytes predicted; a multiple of `sequence` */
  readonly tokens: number;
  /** Consecutive bytes predicted */
  readonly sequence: number;
  /** C, bytes before each of them that the model sees */
  readonly context: number;
}

/** The last tenth is kept for validation. */
export function splitText(bytes: Uint8Array): Text {
  const cut = Math.floor(bytes.length * 0.9);
  return { training: bytes.subarray(0, cut), validation: bytes.subarray(cut) };
}

/** The `sequence` bytes from each of `starts` on, each byte with the `context` bytes before it. */
export function batchAt(
  bytes: Uint8Array,
  starts: readonly number[],
  { sequence, context }: Pick<BatchShape, 'sequence' | 'context'>,
): Batch {
  const tokens = starts.length * sequence;
  const contexts = new Uint8Array(tokens * context);
  const targets = new Uint8Array(tokens);
  for (let row = 0; row < tokens; row++) {
    const position = starts[Math.floor(row / sequence)]! + (row % sequence);
    contexts.set(bytes.subarray(position - context, position), row * context);
    targets[row] = bytes[position]!;
  }
  return { contexts, targets };
}

export function randomBatch(bytes: Uint8Array, shape: BatchShape, random: () => number): Batch {
  const { tokens, sequence, context } = shape;
  const places = bytes.length - context - sequence + 1;
  const starts = Array.from({ length: tokens / sequence }, () => context + Math.floor(random() * places));
  return batchAt(bytes, starts, shape);
}

/** Whole batches of up to `limit` bytes in all, at least one, their sequences spread evenly over `bytes`. */
export function* evenBatches(bytes: Uint8Array, shape: BatchShape, limit: number): Generator<Batch> {
  const { tokens, sequence, context } = shape;
  const batches = Math.max(1, Math.floor(limit / tokens));
  const perBatch = tokens / sequence;
  const stride = (bytes.length - context - sequence) / Math.max(1, batches * perBatch - 1);
  for (let batch = 0; batch < batches; batch++) {
    const first = batch * perBatch;
    const starts = Array.from({ length: perBatch }, (_, i) => context + Math.floor((first + i) * stride));
    yield batchAt(bytes, starts, shape);
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
