// The routing weight of a routed row, found through its slot.
#pragma once

#include "cuda/grouped_gemm.h"

namespace moe::cuda {

// 0 for a row whose slot there is not, which is reported elsewhere.
__device__ inline float weight_of(const RowWeights& weights, int64_t row) {
  if (weights.of_slot == nullptr) return 1.0f;
  const int32_t slot = weights.row_slot[row];
  return slot >= 0 && slot < weights.slots ? weights.of_slot[slot] : 0.0f;
}

}  // namespace moe::cuda
