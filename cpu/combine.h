// Rows brought back to their tokens: the one sum that combine, the experts and their gradients share.
#pragma once

#include "ops/dispatch.h"

namespace moe::cpu {

// out[t] (+)= Σ_k of what slot (t, k) adds, in the order of k: weights[t, k] · rows[row of the slot], or for
// an identity slot token_weights[t, k] · tokens[t]; a dropped slot adds nothing. Weights are 1 where absent.
struct SlotSum {
  Tensor rows;      // [R, H], optional
  Tensor slot_row;  // int32 [T, K], in range
  Tensor weights;   // float32 [T, K], optional
  Tensor tokens;    // [T, H], optional
  Tensor token_weights;
  Tensor out;  // [T, H]
  bool accumulate = false;
};
void sum_slots(const SlotSum& sum);

}  // namespace moe::cpu
