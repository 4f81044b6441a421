// The linear maps of experts as grouped products over routed rows: forward, to the gradient of their input,
// and to those of their parameters. A low-rank pair never becomes a matrix [outputs, inputs]: it is one more
// segment of the product, over the rank (arXiv 2106.09685). Bound by FLOPs, or for few rows by the bytes of
// the weights.
#pragma once

#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "ops/experts.h"
#include "ops/grouped_gemm.h"

namespace moe {

// R rows in ragged groups, one for each expert.
struct RoutedRows {
  int32_t groups = 1;
  const int32_t* offsets = nullptr;  // [groups + 1] where the backend computes, or null: one group of all
  int64_t count = 0;                 // R

  // Where a group's rows begin; on the device that computes.
  MOE_EVERYWHERE int64_t begin(int64_t group) const {
    return offsets != nullptr ? offsets[group] : group * count;
  }
};

// One weight [N, C] of each group, or [C, N], as a linear map.
ExpertLinear linear_of(const Tensor& weight, const Tensor& bias, bool transposed);

// The biases of the gate and the up columns of pre-activation rows; ungated ones have `up` alone.
struct UpBiases {
  ExpertMatrix gate, up;
};
UpBiases up_biases(std::span<const ExpertLinear> up, const ActivationSpec& activation, bool interleaved,
                   int64_t intermediate);

// out[e] (+)= Σ_r leftᵀ · right over the rows of expert e: left's columns are out's rows.
struct BlockGradient {
  Operand left, right;
  int64_t left_columns = 0, right_columns = 0;
  ExpertMatrix out;
  bool accumulate = false;
};

// The gradients of a linear's weight and pair, each where `into` has a place for it; its bias apart, because
// rows may be weighed in between.
struct LinearGradients {
  Operand d_outputs, input;  // rows of the linear's outputs and inputs
  Tensor low;                // its low-rank rows as multiply_backward left them, where it has a pair
  LinearParameters<ExpertMatrix> into;
  LinearParameters<bool> accumulate;
};

// The products as plans that are not a backend's own.
GroupedGemm product_of_linears(const RoutedRows& rows, const Operand& input,
                               std::span<const ExpertLinear> linears, bool side_by_side);
Segment pair_segment(const ExpertLinear& linear, const Tensor& low, const GroupedGemm& gemm);
Segment backward_segment(const ExpertLinear& linear, const ExpertMatrix& matrix, const Operand& d_outputs);
GroupedGemm block_product(const RoutedRows& rows, const BlockGradient& gradient);

// Backend gives the types Epilogue (what becomes of tiles), Activate (an Epilogue) and Workspace (with its
// `tensor`), and the functions
//   Workspace workspace(rows, columns, dtype)
//   void multiply(const GroupedGemm&, const Epilogue&)
//   Epilogue store_rows(const Tensor& out, float scale)
//   Epilogue store_block(const ExpertMatrix& out, bool accumulate)
//   Activate with_biases(Activate, const UpBiases&)
template <class Backend>
class ExpertProducts {
 public:
  using Epilogue = typename Backend::Epilogue;
  using Activate = typename Backend::Activate;
  using Workspace = typename Backend::Workspace;
  // scale · d · lora_b of each linear, [R, rank], where it has a pair: what its lora_a gets the gradient of.
  using LowRankRows = std::vector<std::optional<Workspace>>;

  ExpertProducts(Backend backend, const RoutedRows& rows) : backend_(std::move(backend)), rows_(rows) {}

  const RoutedRows& rows() const { return rows_; }

  // input · linearᵀ without the bias: tiles of rows.
  void multiply(const Operand& input, const ExpertLinear& linear, const Epilogue& epilogue) const {
    multiply_linears(input, {&linear, 1}, false, epilogue);
  }

  // activation(input · upᵀ + bias) of one linear, or of gate and up. `activate` needs no biases: they are the
  // linears'.
  void multiply_and_activate(const Operand& input, std::span<const ExpertLinear> up,
                             const Activate& activate) const {
    const bool side_by_side = is_gated(activate.activation) && !activate.interleaved;
    const UpBiases biases = up_biases(up, activate.activation, activate.interleaved, activate.intermediate);
    multiply_linears(input, up, side_by_side, backend_.with_biases(activate, biases));
  }

  // The gradient of the linears' input, tiles of rows, from that of their outputs, side by side in the
  // columns of `d_outputs`.
  LowRankRows multiply_backward(const Operand& d_outputs, std::span<const ExpertLinear> linears,
                                const Epilogue& epilogue) const {
    GroupedGemm gemm = {
        .groups = rows_.groups, .offsets = rows_.offsets, .rows = rows_.count, .n = linears[0].inputs};
    for (const ExpertLinear& linear : linears)
      gemm.segments.add(backward_segment(linear, linear.at.weight, d_outputs));
    LowRankRows low(linears.size());
    for (size_t i = 0; i < linears.size(); ++i) {
      const ExpertLinear& linear = linears[i];
      if (!linear.at.lora_a) continue;
      low[i] = low_rank_rows(linear, backward_segment(linear, linear.at.lora_b, d_outputs),
                             /*forward=*/false);
      gemm.segments.add({.k = linear.rank(),
                         .a = operand_of(low[i]->tensor),
                         .b = {operand_of(linear.at.lora_a.transposed())}});
    }
    backend_.multiply(gemm, epilogue);
    return low;
  }

  void run(const ExpertLinear& linear, const LinearGradients& gradients) const {
    const auto& [d_outputs, input, low, into, accumulate] = gradients;
    if (into.weight) {
      run({.left = d_outputs,
           .right = input,
           .left_columns = linear.outputs,
           .right_columns = linear.inputs,
           .out = into.weight,
           .accumulate = accumulate.weight});
    }
    if (!low) return;
    run({.left = operand_of(low),
         .right = input,
         .left_columns = linear.rank(),
         .right_columns = linear.inputs,
         .out = into.lora_a,
         .accumulate = accumulate.lora_a});
    const Workspace low_input = low_rank_input(input, linear);
    run({.left = d_outputs,
         .right = operand_of(low_input.tensor),
         .left_columns = linear.outputs,
         .right_columns = linear.rank(),
         .out = into.lora_b,
         .accumulate = accumulate.lora_b});
  }

  void run(const BlockGradient& gradient) const {
    // Tiles are stored along their columns: where the block's rows are the contiguous ones, it is made
    // transposed.
    if (gradient.out.column_stride != 1) {
      return run({.left = gradient.right,
                  .right = gradient.left,
                  .left_columns = gradient.right_columns,
                  .right_columns = gradient.left_columns,
                  .out = gradient.out.transposed(),
                  .accumulate = gradient.accumulate});
    }
    backend_.multiply(block_product(rows_, gradient),
                      backend_.store_block(gradient.out, gradient.accumulate));
  }

 private:
  // scale · (rows · matrixᵀ), [R, rank], in the dtype of the pair.
  Workspace low_rank_rows(const ExpertLinear& linear, const Segment& segment, bool forward) const {
    Workspace low = backend_.workspace(rows_.count, linear.rank(), segment.b[0].dtype);
    backend_.multiply({.groups = rows_.groups,
                       .offsets = rows_.offsets,
                       .rows = rows_.count,
                       .n = linear.rank(),
                       .segments = {segment},
                       .forward = forward},
                      backend_.store_rows(low.tensor, linear.lora_scale));
    return low;
  }

  // scale · lora_a · input: what lora_b multiplies.
  Workspace low_rank_input(const Operand& input, const ExpertLinear& linear) const {
    return low_rank_rows(linear, {.k = linear.inputs, .a = input, .b = {operand_of(linear.at.lora_a)}},
                         /*forward=*/true);
  }

  // The product of linears that make columns side by side: `n` of each of one matrix, or of two at once.
  void multiply_linears(const Operand& input, std::span<const ExpertLinear> linears, bool side_by_side,
                        const Epilogue& epilogue) const {
    GroupedGemm gemm = product_of_linears(rows_, input, linears, side_by_side);
    std::vector<Workspace> low;
    for (const ExpertLinear& linear : linears) {
      if (!linear.at.lora_a) continue;
      low.push_back(low_rank_input(input, linear));
      gemm.segments.add(pair_segment(linear, low.back().tensor, gemm));
    }
    backend_.multiply(gemm, epilogue);
  }

  Backend backend_;
  RoutedRows rows_;
};

}  // namespace moe
