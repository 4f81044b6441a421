// The grouped products as single ops, for frameworks that wire their own layer. Bound by FLOPs, or for few
// rows by the bytes of the weights. The twin of cpu/grouped_matmul.cpp.
#include "ops/grouped_matmul.h"

#include "cuda/backend.h"
#include "cuda/expert_linear.h"

namespace moe::cuda {
namespace {

Products products_over(const Tensor& offsets, int64_t count, const Context& context) {
  const RoutedRows rows = routed_rows(offsets, count);
  check_offsets(rows, context);
  return {ProductBackend{context}, rows};
}

void* data_or_null(const Tensor& tensor) {
  return tensor ? tensor.data : nullptr;
}

}  // namespace

void run(const GroupedMatmul& op, const Context& context) {
  const Products products = products_over(op.offsets, op.rows.dim(0), context);
  clear_unused(products.rows(), op.out, context);
  clear_unused(products.rows(), op.pre_activation, context);
  const ExpertLinear linear = linear_of(op.weight, op.bias, op.transposed);
  products.multiply_and_activate(operand_of(op.rows), {&linear, 1},
                                 {.activation = op.activation,
                                  .interleaved = op.interleaved,
                                  .intermediate = op.out.dim(1),
                                  .dtype = op.out.dtype,
                                  .pre_activation = data_or_null(op.pre_activation),
                                  .out = op.out.data});
}

void run(const GroupedMatmulDgrad& op, const Context& context) {
  const Products products = products_over(op.offsets, op.d_out.dim(0), context);
  clear_unused(products.rows(), op.d_rows, context);
  const ExpertLinear linear = linear_of(op.weight, {}, op.transposed);
  const bool plain = op.activation.function == Activation::identity;
  const ActivateBackward through = {.activation = op.activation,
                                    .interleaved = op.interleaved,
                                    .intermediate = linear.inputs,
                                    .dtype = op.d_rows.dtype,
                                    .pre_activation = data_or_null(op.pre_activation),
                                    .d_pre_activation = op.d_rows.data};
  products.multiply_backward(operand_of(op.d_out), {&linear, 1},
                             plain ? Epilogue(Store{.out = block_of(op.d_rows)}) : Epilogue(through));
}

void run(const GroupedMatmulWgrad& op, const Context& context) {
  const Products products = products_over(op.offsets, op.d_out.dim(0), context);
  const ExpertLinear linear = linear_of(op.d_weight, op.d_bias, op.transposed);
  const Operand d_out = operand_of(op.d_out);
  products.run({.left = d_out,
                .right = operand_of(op.rows),
                .left_columns = linear.outputs,
                .right_columns = linear.inputs,
                .out = linear.at.weight,
                .accumulate = op.accumulate_d_weight});
  if (!op.d_bias) return;
  sum_groups(products.rows(),
             {.rows = d_out,
              .columns = linear.outputs,
              .out = bias_block(linear.at.bias),
              .accumulate = op.accumulate_d_bias},
             context);
}

}  // namespace moe::cuda
