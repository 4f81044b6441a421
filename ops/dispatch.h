// The permutation between slots (t, k) and rows sorted by expert, and moving rows along it.
#pragma once

#include "ops/tensor.h"

namespace moe {

// Stable counting sort of the slots by expert.
struct Dispatch {
  Tensor indices;   // int32 [T, K]
  Tensor offsets;   // int32 [E+1], out
  Tensor row_slot;  // int32 [R], out: slot t·K + k of each row
  Tensor slot_row;  // int32 [T, K], out: row of each slot
};

// rows[r] = x[row_slot[r] / K]
struct Gather {
  Tensor x, row_slot;  // [T, H], int32 [R]
  int top_k = 1;
  Tensor rows;  // [R, H], out
};

// y[t] = Σ_k weights[t, k] · rows[slot_row[t, k]], in float32 in the order of k; weights of 1 where none are
// given
struct Combine {
  Tensor rows, slot_row;  // [R, H], int32 [T, K]
  Tensor weights;         // float32 [T, K], optional
  Tensor y;               // [T, H], out
};

// d_rows[r] = weight of r · dy[token of r]; d_weights = ⟨dy[t], rows[r]⟩ where rows are given
struct CombineBackward {
  Tensor dy, row_slot;   // [T, H], int32 [R]
  Tensor rows, weights;  // [R, H], float32 [T, K], optional
  int top_k = 1;
  Tensor d_rows;     // [R, H], out
  Tensor d_weights;  // float32 [T, K], out, optional
};

}  // namespace moe
