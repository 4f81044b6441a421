// How weights enter grouped products and where finished tiles go, shared by the single ops and whole experts.
#pragma once

#include "cpu/grouped_gemm.h"
#include "ops/experts.h"

namespace moe::cpu {

// A weight as the B of a product: one stored row for each of its rows.
Operand operand_of(const ExpertMatrix& weight);
// Gate and up as B, joined in the given way; ungated experts have one matrix and no halves.
void set_halves(GroupedGemm& gemm, const GateUp& parts, Halves halves);

// Rows of C are rows of a matrix; `bias` holds one row a group.
struct StoreRows {
  Tensor out;
  ExpertMatrix bias = {};
  bool accumulate = false;

  void operator()(const Tile& tile) const;
};

// C is group g's block of a weight gradient.
struct StoreBlock {
  ExpertMatrix out;
  bool accumulate;

  void operator()(const Tile& tile) const;
};

// Activated rows, and the pre-activation rows (gate columns first) where asked.
struct Activate {
  ActivationSpec activation;
  int64_t intermediate;
  ExpertMatrix gate_bias, up_bias;
  Tensor pre_activation;               // [R, I or 2I], optional
  Tensor out;                          // [R, I], optional
  const float* row_weights = nullptr;  // [R], on the sums before the bias

  void operator()(const Tile& tile) const;
};

// The gradient of the pre-activation rows, from sums that are the gradient of the activated rows.
struct ActivateBackward {
  ActivationSpec activation;
  int64_t intermediate;
  Tensor pre_activation, d_pre_activation;  // [R, I or 2I]
  const float* row_weights;                 // [R], or null for 1
  Tensor weighted;                          // [R, I], optional: weight times the activated row
  float* dots;                              // [R, column tiles], or null: ⟨c, activated row⟩ of each tile

  void operator()(const Tile& tile) const;
};

// d_bias[e] (+)= Σ_r weights[r] · row r, over the rows of group e; weights of 1 where null.
struct SumGroups {
  int64_t groups;
  const int32_t* offsets;
  Operand rows;
  int64_t columns;
  const float* weights;
  ExpertMatrix out;
  bool accumulate;
};
void sum_groups(const SumGroups& sums);

}  // namespace moe::cpu
