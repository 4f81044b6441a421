// The linear maps of experts as grouped products over routed rows: forward, to the gradient of their input,
// and to those of their parameters. A low-rank pair never becomes a matrix [outputs, inputs]: it is one more
// segment of the product, over the rank (arXiv 2106.09685). Bound by FLOPs, or for few rows by the bytes of
// the weights.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "cpu/expert_gemm.h"
#include "cpu/workspace.h"

namespace moe::cpu {

// R rows in ragged groups, one for each expert.
struct RoutedRows {
  int64_t groups;
  const int32_t* offsets;  // [groups + 1]
  int64_t count;           // R
};

using Epilogue = std::function<void(const Tile&)>;

// input · linearᵀ without the bias: tiles of rows.
void multiply(const RoutedRows& rows, const Operand& input, const ExpertLinear& linear,
              const Epilogue& epilogue);

// activation(input · upᵀ + bias) of one linear, or of gate and up. `activate` needs no biases: they are the
// linears'.
void multiply_and_activate(const RoutedRows& rows, const Operand& input, std::span<const ExpertLinear> up,
                           Activate activate);

// scale · d · lora_b of each linear, [R, rank], where it has a pair: what its lora_a gets the gradient of.
using LowRankRows = std::vector<std::optional<Workspace>>;

// The gradient of the linears' input, tiles of rows, from that of their outputs, side by side in the columns
// of `d_outputs`.
LowRankRows multiply_backward(const RoutedRows& rows, const Operand& d_outputs,
                              std::span<const ExpertLinear> linears, const Epilogue& epilogue);

// The gradients of a linear's weight and pair, each where `into` has a place for it; its bias apart, because
// rows may be weighed in between.
struct LinearGradients {
  Operand d_outputs, input;             // rows of the linear's outputs and inputs
  const std::optional<Workspace>& low;  // as multiply_backward left it
  LinearParameters<ExpertMatrix> into;
  LinearParameters<bool> accumulate;
};
void run(const RoutedRows& rows, const ExpertLinear& linear, const LinearGradients& gradients);

// out[e] (+)= Σ_r leftᵀ · right over the rows of expert e: left's columns are out's rows.
struct BlockGradient {
  Operand left, right;
  int64_t left_columns, right_columns;
  ExpertMatrix out;
  bool accumulate;
};
void run(const RoutedRows& rows, const BlockGradient& gradient);

}  // namespace moe::cpu
