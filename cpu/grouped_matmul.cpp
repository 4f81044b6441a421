// The grouped products as single ops, for frameworks that wire their own layer. Bound by FLOPs, or for few
// rows by the bytes of the weights.
#include "ops/grouped_matmul.h"

#include <cstring>

#include "cpu/backend.h"
#include "cpu/expert_linear.h"
#include "cpu/loops.h"

namespace moe::cpu {
namespace {

Products products_over(const Tensor& offsets, int64_t rows) {
  check_offsets(offsets, rows);
  const auto groups = static_cast<int32_t>(offsets.dim(0) - 1);
  return {ProductBackend(), {.groups = groups, .offsets = offsets.i32(), .count = rows}};
}

// Rows past the last group belong to none.
void clear_unused(const Tensor& offsets, const Tensor& rows) {
  if (!rows) return;
  const int64_t used = offsets.i32()[offsets.dim(0) - 1], width = rows.dim(1);
  const int64_t unused = (rows.dim(0) - used) * width;
  std::memset(mutable_row_of(rows, used, width), 0, static_cast<size_t>(unused) * bytes_of(rows.dtype));
}

}  // namespace

void run(const GroupedMatmul& op) {
  const Products products = products_over(op.offsets, op.rows.dim(0));
  clear_unused(op.offsets, op.out);
  clear_unused(op.offsets, op.pre_activation);
  const ExpertLinear linear = linear_of(op.weight, op.bias, op.transposed);
  products.multiply_and_activate(operand_of(op.rows), {&linear, 1},
                                 {.activation = op.activation,
                                  .interleaved = op.interleaved,
                                  .intermediate = op.out.dim(1),
                                  .pre_activation = op.pre_activation,
                                  .out = op.out});
}

void run(const GroupedMatmulDgrad& op) {
  const Products products = products_over(op.offsets, op.d_out.dim(0));
  clear_unused(op.offsets, op.d_rows);
  const ExpertLinear linear = linear_of(op.weight, {}, op.transposed);
  const Operand d_out = operand_of(op.d_out);
  if (op.activation.function == Activation::identity) {
    products.multiply_backward(d_out, {&linear, 1}, StoreRows{.out = op.d_rows});
  } else {
    products.multiply_backward(d_out, {&linear, 1},
                               ActivateBackward{.activation = op.activation,
                                                .interleaved = op.interleaved,
                                                .intermediate = linear.inputs,
                                                .pre_activation = op.pre_activation,
                                                .d_pre_activation = op.d_rows,
                                                .row_weights = nullptr,
                                                .weighted = {},
                                                .dots = nullptr});
  }
}

void run(const GroupedMatmulWgrad& op) {
  const Products products = products_over(op.offsets, op.d_out.dim(0));
  const ExpertLinear linear = linear_of(op.d_weight, op.d_bias, op.transposed);
  const Operand d_out = operand_of(op.d_out);
  products.run({.left = d_out,
                .right = operand_of(op.rows),
                .left_columns = linear.outputs,
                .right_columns = linear.inputs,
                .out = linear.at.weight,
                .accumulate = op.accumulate_d_weight});
  if (!op.d_bias) return;
  sum_groups({.groups = products.rows(),
              .rows = d_out,
              .columns = linear.outputs,
              .weights = nullptr,
              .out = linear.at.bias,
              .accumulate = op.accumulate_d_bias});
}

}  // namespace moe::cpu
