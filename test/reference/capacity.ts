// Which slots get their experts: what capacity leaves of each token's choice, and what experts choose themselves.

import { chooseLargest } from './choice.ts';
import { type ReferenceRouter, runsOf, slotsPerToken } from './router.ts';

/** What becomes of a slot. */
export const SERVED = 0;
/** More than the expert takes. */
export const OVER_CAPACITY = 1;
/** Not asked for: past what top-p needs, or of a token that is masked. */
export const UNTAKEN = 2;
/** Passes its token on, because none of the token's experts had room. */
export const RESIDUAL = 3;

/** Slots [T, K] with their experts, weights, and of each token how many are taken. */
export interface Slots {
  indices: ArrayLike<number>;
  weights: Float64Array;
  taken: ArrayLike<number>;
}

/** What becomes of every slot [T, K]. */
export function settleSlots(router: ReferenceRouter, slots: Slots, experts: number): Int32Array {
  const { capacity, expertChoice, sequenceLength } = router;
  const K = slotsPerToken(router, experts);
  const tokens = slots.taken.length;
  const isTaken = (slot: number) => slot % K < slots.taken[Math.floor(slot / K)]!;
  const status = Int32Array.from(slots.indices, (_, slot) => (isTaken(slot) ? SERVED : UNTAKEN));
  const limits = expertChoice ?? capacity;
  if (!limits) return status;
  const length = limits.per === 'sequence' ? sequenceLength! : tokens;
  for (const { begin, end } of runsOf(tokens, length)) {
    dropPastRoom(router, slots, experts, status.subarray(begin * K, end * K), begin * K);
  }
  if (limits.dropped === 'residual') passResidual(status, K);
  return status;
}

/** C, the most rows of one expert in a run of so many tokens. */
export function rowsPerExpert(router: ReferenceRouter, tokens: number, experts: number): number {
  const { capacity, expertChoice, identityExperts = 0 } = router;
  const { tokensPerExpert, factor } = (expertChoice ?? capacity)!;
  if (tokensPerExpert !== undefined) return tokensPerExpert;
  const asked = expertChoice ? tokens : tokens * router.topK!;
  const exact = (factor! * asked) / (experts - identityExperts);
  // A product that rounding alone lifts over an integer is that integer.
  return Math.max(1, Math.ceil(exact - 1e-9));
}

/** In one run, whose slots start at `first`: experts keep those of largest weight, or those that come first. */
function dropPastRoom(
  router: ReferenceRouter,
  { indices, weights }: Slots,
  experts: number,
  status: Int32Array,
  first: number,
): void {
  const room = rowsPerExpert(router, status.length / slotsPerToken(router, experts), experts);
  const byWeight = router.expertChoice || router.capacity?.dropPolicy === 'probability';
  const asking = Array.from({ length: experts }, (): number[] => []);
  for (const [slot, state] of status.entries())
    if (state === SERVED) asking[indices[first + slot]!]!.push(slot);
  // Identity experts take any number.
  for (const slots of asking.slice(0, experts - (router.identityExperts ?? 0))) {
    const kept = chooseLargest(
      Float64Array.from(slots, slot => (byWeight ? weights[first + slot]! : 0)),
      room,
    );
    const keeps = new Set(kept);
    for (const [i, slot] of slots.entries()) if (!keeps.has(i)) status[slot] = OVER_CAPACITY;
  }
}

/** The first slot of a token for none of whose experts there was room stands for the token itself. */
function passResidual(status: Int32Array, K: number): void {
  for (let first = 0; first < status.length; first += K) {
    const own = status.subarray(first, first + K);
    if (own.includes(OVER_CAPACITY) && !own.includes(SERVED)) own[0] = RESIDUAL;
  }
}
