// The linear maps of experts as grouped products over routed rows: forward, to the gradient of their input,
// and to those of their parameters. A low-rank pair never becomes a matrix [outputs, inputs]: it is one more
// segment of the product, over the rank (arXiv 2106.09685). The twin of cpu/expert_linear.h.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "cuda/grouped_gemm.h"
#include "cuda/routed_rows.h"

namespace moe::cuda {

// input · linearᵀ without the bias: tiles of rows.
void multiply(const RoutedRows& rows, const Operand& input, const ExpertLinear& linear, const Store& epilogue,
              const Context& context);

// activation(input · upᵀ + bias) of one linear, or of gate and up. `activate` needs no biases: they are the
// linears'.
void multiply_and_activate(const RoutedRows& rows, const Operand& input, std::span<const ExpertLinear> up,
                           Activate activate, const Context& context);

// scale · d · lora_b of each linear, [R, rank], where it has a pair: what its lora_a gets the gradient of.
using LowRankRows = std::vector<std::optional<Workspace>>;

// The gradient of the linears' input, tiles of rows, from that of their outputs, side by side in the columns
// of `d_outputs`.
LowRankRows multiply_backward(const RoutedRows& rows, const Operand& d_outputs,
                              std::span<const ExpertLinear> linears, const Epilogue& epilogue,
                              const Context& context);

// The gradients of a linear's weight and pair, each where `into` has a place for it; its bias apart, because
// rows may be weighed in between.
struct LinearGradients {
  Operand d_outputs, input;             // rows of the linear's outputs and inputs
  const std::optional<Workspace>& low;  // as multiply_backward left it
  LinearParameters<ExpertMatrix> into;
  LinearParameters<bool> accumulate;
};
void run(const RoutedRows& rows, const ExpertLinear& linear, const LinearGradients& gradients,
         const Context& context);

// out[e] (+)= Σ_r leftᵀ · right over the rows of expert e: left's columns are out's rows.
struct BlockGradient {
  Operand left, right;
  int64_t left_columns, right_columns;
  ExpertMatrix out;
  bool accumulate;
};
void run(const RoutedRows& rows, const BlockGradient& gradient, const Context& context);

// One value of each group for every output: where Store, Activate and sum_groups find it.
Block bias_block(const ExpertMatrix& bias);

}  // namespace moe::cuda
