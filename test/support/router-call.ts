// What the flags of a router variant stand for in a call: the tokens that are masked, the experts that are given.

import type { RouterOptions } from '../../src/index.ts';
import type { RouterCall } from '../reference/router.ts';
import type { RouterVariant } from './routers.ts';

export interface CallInputs extends RouterCall {
  mask?: Int32Array;
  /** [T, K] of a router whose experts are given */
  indices?: Int32Array;
}

/** The options alone, without the flags that are no options. */
export function optionsOf(variant: RouterVariant): Omit<RouterOptions, 'topK' | 'identityExperts'> {
  const { selectionBias, expertScale, loraRank, hash, masked, sequences, step, ...options } = variant;
  return options;
}

/** The shortest length above 2 that divides so many tokens. */
export function sequenceLengthOf(tokens: number): number {
  let length = Math.min(3, Math.max(tokens, 1));
  while (tokens % length !== 0) length++;
  return length;
}

/** The first few tokens, a whole sequence among them, and then every third are padding; the rest are not 0. */
const maskOf = (tokens: number) =>
  Int32Array.from({ length: tokens }, (_, t) => (t % 3 === 1 || (t < 3 && tokens > 6) ? 0 : 1 + (t % 2)));

/** Distinct experts of each token, some used more than others. */
const givenExperts = (tokens: number, topK: number, experts: number) =>
  Int32Array.from({ length: tokens * topK }, (_, slot) => {
    const token = Math.floor(slot / topK);
    return (token * token + (slot % topK)) % experts;
  });

export function callInputs(
  { hash, masked, sequences, step }: RouterVariant,
  { tokens, topK, width }: { tokens: number; topK: number; width: number },
): CallInputs {
  return {
    step,
    ...(masked && { mask: maskOf(tokens) }),
    ...(sequences && { sequenceLength: sequenceLengthOf(tokens) }),
    ...(hash && { indices: givenExperts(tokens, topK, width) }),
  };
}
