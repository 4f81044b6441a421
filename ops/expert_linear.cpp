#include "ops/expert_linear.h"

namespace moe {
namespace {

bool makes(const ExpertLinear& linear, int64_t column) {
  return column >= linear.first && column < linear.first + linear.outputs;
}

// The part of a linear's matrix that makes the columns from `column` on; zeros where another linear makes
// them.
Operand columns_from(const ExpertLinear& linear, const ExpertMatrix& matrix, int64_t column) {
  Operand b = operand_of(makes(linear, column) ? matrix.rows_from(column - linear.first) : matrix);
  b.absent = !makes(linear, column);
  return b;
}

ExpertMatrix bias_from(std::span<const ExpertLinear> linears, int64_t column) {
  for (const ExpertLinear& linear : linears) {
    if (makes(linear, column)) return linear.at.bias.rows_from(column - linear.first);
  }
  return {};
}

}  // namespace

ExpertLinear linear_of(const Tensor& weight, const Tensor& bias, bool transposed) {
  ExpertLinear linear = {.outputs = weight.dim(transposed ? 2 : 1),
                         .inputs = weight.dim(transposed ? 1 : 2),
                         .transposed = transposed};
  linear.at = linear.blocks_of({.weight = weight, .bias = bias});
  return linear;
}

UpBiases up_biases(std::span<const ExpertLinear> up, const ActivationSpec& activation, bool interleaved,
                   int64_t intermediate) {
  if (!is_gated(activation)) return {.up = bias_from(up, 0)};
  UpBiases biases = {bias_from(up, 0), bias_from(up, interleaved ? 1 : intermediate)};
  if (interleaved) {
    biases.gate.row_stride *= 2;
    biases.up.row_stride *= 2;
  }
  return biases;
}

GroupedGemm product_of_linears(const RoutedRows& rows, const Operand& input,
                               std::span<const ExpertLinear> linears, bool side_by_side) {
  const int matrices = side_by_side ? 2 : 1;
  const int64_t columns = (linears.back().first + linears.back().outputs) / matrices;
  Segment weights = {.k = linears[0].inputs, .a = input};
  for (int matrix = 0; matrix < matrices; ++matrix) {
    for (const ExpertLinear& linear : linears) {
      if (makes(linear, matrix * columns))
        weights.b[matrix] = columns_from(linear, linear.at.weight, matrix * columns);
    }
  }
  return {.groups = rows.groups,
          .offsets = rows.offsets,
          .rows = rows.count,
          .n = columns,
          .segments = {weights},
          .side_by_side = side_by_side,
          .forward = true};
}

Segment pair_segment(const ExpertLinear& linear, const Tensor& low, const GroupedGemm& gemm) {
  Segment pair = {.k = linear.rank(), .a = operand_of(low)};
  for (int matrix = 0; matrix < (gemm.side_by_side ? 2 : 1); ++matrix)
    pair.b[matrix] = columns_from(linear, linear.at.lora_b, matrix * gemm.n);
  return pair;
}

Segment backward_segment(const ExpertLinear& linear, const ExpertMatrix& matrix, const Operand& d_outputs) {
  return {
      .k = linear.outputs, .a = columns_of(d_outputs, linear.first), .b = {operand_of(matrix.transposed())}};
}

GroupedGemm block_product(const RoutedRows& rows, const BlockGradient& gradient) {
  return {.groups = rows.groups,
          .offsets = rows.offsets,
          .rows = rows.count,
          .ragged = Ragged::k,
          .m = gradient.left_columns,
          .n = gradient.right_columns,
          .segments = {{.a = as_steps(gradient.left), .b = {as_steps(gradient.right)}}}};
}

}  // namespace moe
