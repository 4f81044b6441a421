// What a layer without grouped products does between its router and its experts: it lists each expert's slots.

/** The slots (token · K + choice) of each expert, and each slot's place when they stand expert by expert. */
export function slotsByExpert(
  chosen: ArrayLike<number>,
  experts: number,
): { slots: readonly number[][]; places: Int32Array } {
  const slots: number[][] = Array.from({ length: experts }, () => []);
  for (let slot = 0; slot < chosen.length; slot++) slots[chosen[slot]!]!.push(slot);
  const places = new Int32Array(chosen.length);
  for (const [place, slot] of slots.flat().entries()) places[slot] = place;
  return { slots, places };
}
