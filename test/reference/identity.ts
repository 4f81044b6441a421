// Identity experts: a slot routed to one passes its token on, weighted. Their output and all its gradients are one sum.

import { IDENTITY_SLOT, type ReferenceDispatch } from './dispatch.ts';
import { FLOAT64, type Precision } from './precision.ts';

function* identitySlots({ slotRow, topK }: ReferenceDispatch): Generator<[slot: number, token: number]> {
  for (const [slot, row] of slotRow.entries()) {
    if (row === IDENTITY_SLOT) yield [slot, Math.floor(slot / topK)];
  }
}

/** Σ weights[t, k] · values[t] over the identity slots: of x what they add to y, of dy what they add to dx. */
export function referenceIdentity(
  values: Float64Array,
  dispatch: ReferenceDispatch,
  hidden: number,
  weights: Float64Array,
  { round, float32Sums }: Precision = FLOAT64,
): Float64Array {
  const sums = new Float64Array(values.length);
  for (const [slot, token] of identitySlots(dispatch)) {
    for (let i = token * hidden; i < (token + 1) * hidden; i++) {
      const sum = sums[i]! + weights[slot]! * values[i]!;
      sums[i] = float32Sums ? Math.fround(sum) : sum;
    }
  }
  return sums.map(round);
}

/** dWeights[t, k] = ⟨dy[t], x[t]⟩ of the identity slots, 0 of the others */
export function referenceIdentityWeightGradient(
  x: Float64Array,
  dispatch: ReferenceDispatch,
  hidden: number,
  dy: Float64Array,
  { float32Sums }: Precision = FLOAT64,
): Float64Array {
  const dWeights = new Float64Array(dispatch.slotRow.length);
  for (const [slot, token] of identitySlots(dispatch)) {
    for (let i = token * hidden; i < (token + 1) * hidden; i++) {
      const sum = dWeights[slot]! + dy[i]! * x[i]!;
      dWeights[slot] = float32Sums ? Math.fround(sum) : sum;
    }
  }
  return dWeights;
}
