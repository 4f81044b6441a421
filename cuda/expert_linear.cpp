#include "cuda/expert_linear.h"

namespace moe::cuda {
namespace {

// Gate and up.
constexpr int kMatrices = 2;

// A weight as a B whose columns are the weight's rows, whichever of its dimensions is contiguous.
Operand weight_operand(const ExpertMatrix& weight) {
  const bool k_contiguous = weight.column_stride == 1;
  const int64_t offset = weight.offset * static_cast<int64_t>(bytes_of(weight.tensor.dtype));
  return {.data = weight.tensor.as<const char>() + offset,
          .dtype = weight.tensor.dtype,
          .row_stride = k_contiguous ? weight.row_stride : weight.column_stride,
          .group_stride = weight.expert_stride,
          .k_contiguous = k_contiguous};
}

bool makes(const ExpertLinear& linear, int64_t column) {
  return column >= linear.first && column < linear.first + linear.outputs;
}

// The part of a linear's matrix that makes the columns from `column` on; zeros where another linear makes
// them.
Operand columns_from(const ExpertLinear& linear, const ExpertMatrix& matrix, int64_t column) {
  Operand b = weight_operand(makes(linear, column) ? matrix.rows_from(column - linear.first) : matrix);
  b.absent = !makes(linear, column);
  return b;
}

int64_t rank_of(const ExpertLinear& linear) {
  return linear.at.lora_a.tensor.dim(1);
}

GroupedGemm product_over(const RoutedRows& rows, int64_t columns) {
  return {.groups = rows.groups, .offsets = rows.offsets, .rows = rows.count, .n = columns};
}

// scale · (rows · matrixᵀ), [R, rank], in the dtype of the pair.
Workspace low_rank_rows(const RoutedRows& rows, const Segment& segment, int64_t rank, float scale,
                        const Context& context) {
  Workspace low = context.workspace(rows.count, rank, segment.b[0].dtype);
  GroupedGemm gemm = product_over(rows, rank);
  gemm.add(segment);
  grouped_gemm(gemm, Store{.out = block_of(low.tensor), .scale = scale}, context);
  return low;
}

// scale · lora_a · input: what lora_b multiplies.
Workspace low_rank_input(const RoutedRows& rows, const Operand& input, const ExpertLinear& linear,
                         const Context& context) {
  return low_rank_rows(rows, {.k = linear.inputs, .a = input, .b = {weight_operand(linear.at.lora_a)}},
                       rank_of(linear), linear.lora_scale, context);
}

// The product of linears that make columns side by side: `n` of each of one matrix, or of two at once.
void multiply_linears(const RoutedRows& rows, const Operand& input, std::span<const ExpertLinear> linears,
                      bool side_by_side, const Epilogue& epilogue, const Context& context) {
  const int64_t columns = linears.back().first + linears.back().outputs;
  const int matrices = side_by_side ? kMatrices : 1;
  GroupedGemm gemm = product_over(rows, columns / matrices);
  gemm.side_by_side = side_by_side;
  Segment weights = {.k = linears[0].inputs, .a = input};
  for (int matrix = 0; matrix < matrices; ++matrix) {
    for (const ExpertLinear& linear : linears) {
      if (!makes(linear, matrix * gemm.n)) continue;
      weights.b[matrix] = columns_from(linear, linear.at.weight, matrix * gemm.n);
    }
  }
  gemm.add(weights);
  std::vector<Workspace> low;
  for (const ExpertLinear& linear : linears) {
    if (!linear.at.lora_a) continue;
    low.push_back(low_rank_input(rows, input, linear, context));
    Segment pair = {.k = rank_of(linear), .a = operand_of(low.back().tensor)};
    for (int matrix = 0; matrix < matrices; ++matrix)
      pair.b[matrix] = columns_from(linear, linear.at.lora_b, matrix * gemm.n);
    gemm.add(pair);
  }
  grouped_gemm(gemm, epilogue, context);
}

// Rows from a further column on.
Operand columns_of(Operand rows, int64_t first) {
  rows.data = static_cast<const char*>(rows.data) + first * static_cast<int64_t>(bytes_of(rows.dtype));
  return rows;
}

Block bias_from(std::span<const ExpertLinear> linears, int64_t column) {
  for (const ExpertLinear& linear : linears) {
    if (makes(linear, column)) return bias_block(linear.at.bias.rows_from(column - linear.first));
  }
  return {};
}

}  // namespace

Block bias_block(const ExpertMatrix& bias) {
  return block_of(bias.transposed());
}

void multiply(const RoutedRows& rows, const Operand& input, const ExpertLinear& linear, const Store& epilogue,
              const Context& context) {
  multiply_linears(rows, input, {&linear, 1}, false, epilogue, context);
}

void multiply_and_activate(const RoutedRows& rows, const Operand& input, std::span<const ExpertLinear> up,
                           Activate activate, const Context& context) {
  const bool gated = is_gated(activate.activation), interleaved = activate.interleaved;
  if (gated) activate.gate_bias = bias_from(up, 0);
  activate.up_bias = bias_from(up, !gated ? 0 : interleaved ? 1 : activate.intermediate);
  if (interleaved) {
    activate.gate_bias.column_stride *= 2;
    activate.up_bias.column_stride *= 2;
  }
  multiply_linears(rows, input, up, gated && !interleaved, activate, context);
}

LowRankRows multiply_backward(const RoutedRows& rows, const Operand& d_outputs,
                              std::span<const ExpertLinear> linears, const Epilogue& epilogue,
                              const Context& context) {
  GroupedGemm gemm = product_over(rows, linears[0].inputs);
  const auto segment = [&](const ExpertLinear& linear, const ExpertMatrix& matrix) {
    return Segment{.k = linear.outputs,
                   .a = columns_of(d_outputs, linear.first),
                   .b = {weight_operand(matrix.transposed())}};
  };
  for (const ExpertLinear& linear : linears) gemm.add(segment(linear, linear.at.weight));
  LowRankRows low(linears.size());
  for (size_t i = 0; i < linears.size(); ++i) {
    const ExpertLinear& linear = linears[i];
    if (!linear.at.lora_a) continue;
    low[i] =
        low_rank_rows(rows, segment(linear, linear.at.lora_b), rank_of(linear), linear.lora_scale, context);
    gemm.add({.k = rank_of(linear),
              .a = operand_of(low[i]->tensor),
              .b = {weight_operand(linear.at.lora_a.transposed())}});
  }
  grouped_gemm(gemm, epilogue, context);
  return low;
}

void run(const RoutedRows& rows, const ExpertLinear& linear, const LinearGradients& gradients,
         const Context& context) {
  const auto& [d_outputs, input, low, into, accumulate] = gradients;
  if (into.weight) {
    run(rows,
        BlockGradient{.left = d_outputs,
                      .right = input,
                      .left_columns = linear.outputs,
                      .right_columns = linear.inputs,
                      .out = into.weight,
                      .accumulate = accumulate.weight},
        context);
  }
  if (!low) return;
  run(rows,
      BlockGradient{.left = operand_of(low->tensor),
                    .right = input,
                    .left_columns = rank_of(linear),
                    .right_columns = linear.inputs,
                    .out = into.lora_a,
                    .accumulate = accumulate.lora_a},
      context);
  const Workspace low_input = low_rank_input(rows, input, linear, context);
  run(rows,
      BlockGradient{.left = d_outputs,
                    .right = operand_of(low_input.tensor),
                    .left_columns = linear.outputs,
                    .right_columns = rank_of(linear),
                    .out = into.lora_b,
                    .accumulate = accumulate.lora_b},
      context);
}

void run(const RoutedRows& rows, const BlockGradient& gradient, const Context& context) {
  // Tiles are stored along their columns: where the block's rows are the contiguous ones, it is made
  // transposed.
  if (gradient.out.column_stride != 1) {
    return run(rows,
               BlockGradient{.left = gradient.right,
                             .right = gradient.left,
                             .left_columns = gradient.right_columns,
                             .right_columns = gradient.left_columns,
                             .out = gradient.out.transposed(),
                             .accumulate = gradient.accumulate},
               context);
  }
  GroupedGemm gemm = product_over(rows, gradient.right_columns);
  gemm.ragged = Ragged::k;
  gemm.m = gradient.left_columns;
  gemm.add({.a = as_steps(gradient.left), .b = {as_steps(gradient.right)}});
  grouped_gemm(gemm, Store{.out = block_of(gradient.out), .accumulate = gradient.accumulate}, context);
}

}  // namespace moe::cuda
