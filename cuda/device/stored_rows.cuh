// Where the rows of an operand are stored.
#pragma once

#include "ops/grouped_gemm.h"

namespace moe::cuda {

// The position of stored row i; negative where there is none, whatever the index says.
__device__ inline int64_t position_of(const Operand& operand, int64_t i) {
  if (operand.row_index == nullptr) return i < operand.row_count ? i : -1;
  const int32_t index = operand.row_index[i], position = index / operand.row_divisor;
  return index >= 0 && position < operand.row_count ? position : -1;
}

}  // namespace moe::cuda
