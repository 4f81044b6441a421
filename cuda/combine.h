// Rows brought back to their tokens: the one sum that combine, the experts and their gradients share.
#pragma once

#include "cuda/context.h"
#include "ops/dispatch.h"

namespace moe::cuda {

// out[t] (+)= Σ_k of what slot (t, k) adds, in the order of k: weights[t, k] · rows[row of the slot], or for
// an identity slot token_weights[t, k] · tokens[t]; a dropped slot adds nothing. Weights are 1 where absent.
struct SlotSum {
  Tensor rows;      // [R, H], optional
  Tensor slot_row;  // int32 [T, K]
  Tensor weights;   // float32 [T, K], optional
  Tensor tokens;    // [T, H], optional
  Tensor token_weights;
  Tensor out;  // [T, H]
  bool accumulate = false;
};
void sum_slots(const SlotSum& sum, const Context& context);

// d_weights[slot] = ⟨dy[t], tokens[t]⟩ of identity slots where tokens are given, 0 of dropped ones.
struct RowlessWeights {
  Tensor dy, tokens;
  Tensor slot_row;   // int32 [T, K]
  Tensor d_weights;  // float32 [T, K]
};
void gradient_of_rowless_weights(const RowlessWeights& rowless, const Context& context);

}  // namespace moe::cuda
