// How tensors enter grouped products, and where finished tiles go: rows, blocks of weight gradients, through
// an activation or its derivative. Shared by the single ops, whole experts and the router.
#pragma once

#include "cpu/grouped_gemm.h"
#include "ops/expert_linear.h"

namespace moe::cpu {

// Rows of C, times scale, are rows of a matrix; `bias` holds one row a group.
struct StoreRows {
  Tensor out;
  float scale = 1;
  ExpertMatrix bias = {};
  bool accumulate = false;

  void operator()(const Tile& tile) const;
  void prefetch(const Tile& tile) const;
};

// C is group g's block of a weight gradient, whose columns are contiguous.
Epilogue store_block(const ExpertMatrix& out, bool accumulate);

// Activated rows, and the pre-activation rows where asked. Gated: gate and up lie side by side in C, and
// apart in pre-activation rows; or they are alternate columns of both.
struct Activate {
  ActivationSpec activation;
  bool interleaved = false;
  int64_t intermediate;
  ExpertMatrix gate_bias, up_bias;
  Tensor pre_activation;               // [R, I or 2I], optional
  Tensor out;                          // [R, I], optional
  const float* row_weights = nullptr;  // [R], on the sums before the bias

  void operator()(const Tile& tile) const;
  void prefetch(const Tile& tile) const;
};

// The gradient of the pre-activation rows, from sums that are the gradient of the activated rows.
struct ActivateBackward {
  ActivationSpec activation;
  bool interleaved = false;
  int64_t intermediate;
  Tensor pre_activation, d_pre_activation;  // [R, I or 2I]
  const float* row_weights;                 // [R], or null for 1
  Tensor weighted;                          // [R, I], optional: weight times the activated row
  float* dots;                              // [R, column tiles], or null: ⟨c, activated row⟩ of each tile

  void operator()(const Tile& tile) const;
  void prefetch(const Tile& tile) const;
};

// d_bias[e] (+)= Σ_r weights[r] · row r, over the rows of group e; weights of 1 where null.
struct SumGroups {
  RoutedRows groups;
  Operand rows;
  int64_t columns;
  const float* weights;
  ExpertMatrix out;
  bool accumulate;
};
void sum_groups(const SumGroups& sums);

}  // namespace moe::cpu
