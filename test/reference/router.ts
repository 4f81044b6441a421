// What the reference's router is told: its description, its vectors, and what one call adds to them.

import type { RouterOptions } from '../../src/router.ts';
import type { Values } from './precision.ts';

/** What a call says of its tokens. */
export interface RouterCall {
  /** [T]: tokens that are 0 here are not routed. */
  mask?: ArrayLike<number>;
  /** Tokens of one sequence. */
  sequenceLength?: number;
  /** Noise is on where there is one. */
  step?: number;
}

export interface ReferenceRouter extends RouterOptions, RouterCall {
  /** [E'] */
  selectionBias?: Values;
  /** [E]; identity experts have 1. */
  expertScale?: Values;
}

/** K: with expert choice, every expert has a slot of every token. */
export function slotsPerToken({ expertChoice, topK }: RouterOptions, experts: number): number {
  return expertChoice ? experts : topK!;
}

/** The runs of consecutive tokens, each with its first and the one past its last, that are `length` tokens long. */
export function* runsOf(tokens: number, length = tokens): Generator<{ begin: number; end: number }> {
  for (let begin = 0; begin < tokens; begin += length) yield { begin, end: begin + length };
}

export const isMasked = ({ mask }: RouterCall, token: number): boolean => mask?.[token] === 0;
