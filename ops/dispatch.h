// The permutation between slots (t, k) and rows sorted by expert, and moving rows along it.
#pragma once

#include "ops/tensor.h"

namespace moe {

// What slot_row holds for slots that no expert computes.
inline constexpr int32_t kDroppedSlot = -1;
inline constexpr int32_t kIdentitySlot = -2;
// What row_slot holds past the last row that is used.
inline constexpr int32_t kUnusedRow = -1;

// Stable counting sort of the slots by expert. Ids from E on are identity experts.
struct Dispatch {
  Tensor indices;  // int32 [T, K]
  Tensor dropped;  // int32 [T, K], optional: a SlotFate of router.h for each slot
  int identity_experts = 0;
  // Every expert owns so many rows, used or not, for layouts of [E, C, H]; 0: as many as it uses.
  int rows_per_expert = 0;
  Tensor offsets;   // int32 [E+1], out; the last is the number of rows used, at most R
  Tensor row_slot;  // int32 [R], out: slot t·K + k of each row
  Tensor slot_row;  // int32 [T, K], out: row of each slot
};

// rows[r] = x[row_slot[r] / K], zeros for unused rows
struct Gather {
  Tensor x, row_slot;  // [T, H], int32 [R]
  int top_k = 1;
  Tensor rows;  // [R, H], out
};

// y[t] (+)= Σ_k weights[t, k] · rows[slot_row[t, k]] over the slots that have a row, in float32 in the order
// of k; weights of 1 where none are given. Identity slots add weights[t, k] · x[t] where x is given.
struct Combine {
  Tensor rows, slot_row;  // [R, H], int32 [T, K]
  Tensor weights;         // float32 [T, K], optional
  Tensor x;               // [T, H], optional
  Tensor y;               // [T, H], out
  bool accumulate = false;
};

// d_rows[r] = weight of r · dy[token of r], zeros for unused rows; where rows are given,
// d_weights = ⟨dy[t], rows[r]⟩, 0 for slots without a row, ⟨dy[t], x[t]⟩ for identity slots; dx is what these
// let through.
struct CombineBackward {
  Tensor dy, row_slot, slot_row;  // [T, H], int32 [R], int32 [T, K]
  Tensor rows, weights;           // [R, H], float32 [T, K], optional
  Tensor x;                       // [T, H], optional
  Tensor d_rows;                  // [R, H], out
  Tensor d_weights;               // float32 [T, K], out, optional
  Tensor dx;                      // [T, H], out, with x
};

}  // namespace moe
