// What layers do to rows in ragged groups besides multiplying them: checks, clearing, weighing, sums. Offsets
// and permutations lie on the device, so that R alone is known here.
#pragma once

#include "cuda/context.h"
#include "cuda/grouped_gemm.h"
#include "ops/expert_linear.h"

namespace moe::cuda {

RoutedRows routed_rows(const Tensor& offsets, int64_t count);

// Reports offsets that do not ascend from 0 to at most R.
void check_offsets(const RoutedRows& rows, const Context& context);
// And permutations that name a slot or a row there is not, where rows are used.
void check_dispatch(const RoutedRows& rows, const Tensor& row_slot, const Tensor& slot_row,
                    const Context& context);

// Zeros in the rows that belong to no group; nothing for an absent matrix.
void clear_unused(const RoutedRows& rows, const Tensor& matrix, const Context& context);

// matrix[r] *= weight of r, in the rows that are used.
void weigh_rows(const RoutedRows& rows, const Tensor& matrix, const RowWeights& weights,
                const Context& context);

// out[e] (+)= Σ_r weight of r · row r, over the rows of group e.
struct SumGroups {
  Operand rows;
  int64_t columns;
  RowWeights weights = {};
  Block out;  // group_stride and column_stride
  bool accumulate = false;
};
void sum_groups(const RoutedRows& rows, const SumGroups& sums, const Context& context);

// d_weights[slot of r] = Σ partials[r] + ⟨tokens[token of r], other⟩; `other` has a row for each routed row
// (row_stride) or each group (group_stride), or is nothing.
struct DotRows {
  Tensor row_slot;  // int32 [R]
  Tensor partials;  // float32 [R, n], optional
  Tensor tokens;    // [T, H]
  Block other = {};
  Tensor d_weights;  // float32 [T, K], out
};
void dot_rows(const RoutedRows& rows, const DotRows& dots, const Context& context);

}  // namespace moe::cuda
