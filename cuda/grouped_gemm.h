// Grouped products on a GPU: what becomes of C. The twin of cpu/grouped_gemm.h.
#pragma once

#include <variant>

#include "cuda/context.h"
#include "ops/grouped_gemm.h"

namespace moe::cuda {

// One matrix of each group, or rows of all, where an epilogue reads or writes.
struct Block {
  void* data = nullptr;
  DType dtype = DType::float32;
  int64_t group_stride = 0, row_stride = 0, column_stride = 1;
};
Block block_of(const ExpertMatrix& matrix);
Block block_of(const Tensor& rows);

// What routed rows are multiplied by: of_slot[row_slot[r]], or 1.
struct RowWeights {
  const float* of_slot = nullptr;     // [T, K], or null
  const int32_t* row_slot = nullptr;  // [R]
  int64_t slots = 0;                  // T·K
};

// Rows of C, times scale, plus a bias of the group, are rows of a matrix; or C is its group's block.
struct Store {
  Block out;
  Block bias = {};  // group_stride and column_stride
  float scale = 1;
  bool accumulate = false;
};

// As the CPU's: activated rows, and the pre-activation rows where asked.
struct Activate {
  ActivationSpec activation;
  bool interleaved = false;
  int64_t intermediate = 0;
  Block gate_bias = {}, up_bias = {};
  DType dtype = DType::float32;
  void* pre_activation = nullptr;  // [R, I or 2I], or null
  void* out = nullptr;             // [R, I], or null
  RowWeights row_weights = {};
};

// The gradient of the pre-activation rows, from sums that are the gradient of the activated rows.
struct ActivateBackward {
  ActivationSpec activation;
  bool interleaved = false;
  int64_t intermediate = 0;
  DType dtype = DType::float32;
  const void* pre_activation = nullptr;  // [R, I or 2I]
  void* d_pre_activation = nullptr;
  RowWeights row_weights = {};
  void* weighted = nullptr;  // [R, I], or null: weight times the activated row
  float* dots = nullptr;     // [R, ⌈I / kDotColumns⌉], or null: ⟨c, activated row⟩ of so many columns each
};

// Sums along rows are kept by so many columns, whatever the tile: their order must not depend on it.
inline constexpr int kDotColumns = 64;

using Epilogue = std::variant<Store, Activate, ActivateBackward>;
void grouped_gemm(const GroupedGemm& gemm, const Epilogue& epilogue, const Context& context);

}  // namespace moe::cuda
