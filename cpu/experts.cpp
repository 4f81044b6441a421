// The experts of a layer: grouped products with their gathers, activations and weights fused.
//
// Forward: up (gathers x) → activated rows → down → combine. Backward, after SonicMoE (arXiv 2512.14080): one
// product A' = dy·W₂ whose epilogue gives the gradients of the pre-activation and of the routing weights and
// the weighted activated rows, then dW₂, dW₁ and the rows of dx. Bound by FLOPs, or for few rows by the bytes
// of the touched experts.
#include "ops/experts.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "cpu/backend.h"
#include "cpu/combine.h"
#include "cpu/expert_linear.h"
#include "cpu/loops.h"
#include "cpu/stages.h"

namespace moe::cpu {
namespace {

// Dimensions and operands that the stages of one layer share, forward or backward.
struct Layer {
  template <class Op>
  explicit Layer(const Op& op)
      : T(op.x.dim(0)),
        H(op.x.dim(1)),
        K(op.slot_row.dim(1)),
        R(op.row_slot.dim(0)),
        E(op.offsets.dim(0) - 1),
        I(op.experts.dims().intermediate),
        dtype(op.x.dtype),
        activation(op.activation),
        interleaved(op.experts.interleaved),
        row_slot(op.row_slot.i32()),
        rows{.groups = static_cast<int32_t>(E), .offsets = op.offsets.i32(), .count = R},
        products(ProductBackend(), rows),
        up(up_projections(op.experts, op.activation)),
        down(down_projection(op.experts)) {
    check_offsets(op.offsets, R);
    rows_used = rows.offsets[E];
    check_range("rowSlot", op.row_slot, T * K, 0, rows_used);
    check_range("slotRow", op.slot_row, rows_used, kIdentitySlot);
  }

  int64_t pre_width() const { return is_gated(activation) ? 2 * I : I; }

  // Token rows in the order of the routed rows.
  Operand gathered(const Tensor& tokens) const {
    return {.data = tokens.data,
            .dtype = tokens.dtype,
            .row_stride = tokens.dim(1),
            .row_index = row_slot,
            .row_divisor = static_cast<int32_t>(K)};
  }

  int64_t T, H, K, R, E, I;
  // At most R, which need not be T·K: dropped and identity slots have no row.
  int64_t rows_used = 0;
  DType dtype;
  ActivationSpec activation;
  bool interleaved;
  const int32_t* row_slot;
  RoutedRows rows;
  Products products;
  std::vector<ExpertLinear> up;
  ExpertLinear down;
};

// One float for each routed row.
using RowWeights = std::vector<float>;

RowWeights weights_of_rows(const Layer& layer, const Tensor& weights) {
  RowWeights of_rows(static_cast<size_t>(layer.rows_used));
  for (int64_t r = 0; r < layer.rows_used; ++r)
    of_rows[static_cast<size_t>(r)] = weights.f32()[layer.row_slot[r]];
  return of_rows;
}

// x · gate and up; activated rows and pre-activation rows, each where its tensor is present. `weights`
// multiply the input of each row, or are null.
void project_up(const Layer& layer, const Tensor& x, const float* weights, const Tensor& pre_activation,
                const Tensor& activated) {
  layer.products.multiply_and_activate(layer.gathered(x), layer.up,
                                       {.activation = layer.activation,
                                        .interleaved = layer.interleaved,
                                        .intermediate = layer.I,
                                        .pre_activation = pre_activation,
                                        .out = activated,
                                        .row_weights = weights});
}

}  // namespace

void run(const ExpertsForward& op) {
  const Layer layer(op);
  const Workspace activated(layer.R, layer.I, layer.dtype), rows(layer.R, layer.H, layer.dtype);
  const RowWeights row_weights = op.weight_on_input ? weights_of_rows(layer, op.weights) : RowWeights();
  StageTimer stage("up");
  project_up(layer, op.x, op.weight_on_input ? row_weights.data() : nullptr, op.pre_activation,
             activated.tensor);
  stage.next("down");
  layer.products.multiply(operand_of(activated.tensor), layer.down,
                          StoreRows{.out = rows.tensor, .bias = layer.down.at.bias});
  stage.next("combine");
  sum_slots({.rows = rows.tensor,
             .slot_row = op.slot_row,
             .weights = op.weight_on_input ? Tensor{} : op.weights,
             .tokens = op.x,
             .token_weights = op.weights,
             .out = op.y,
             .accumulate = op.accumulate_y});
}

namespace {

// The backward pass of one layer: its stages in order, and what they hand on.
class Backward {
 public:
  explicit Backward(const ExpertsBackward& op)
      : op_(op),
        layer_(op),
        row_weights_(weights_of_rows(layer_, op.weights)),
        pre_activation_(op.pre_activation),
        d_pre_(layer_.R, layer_.pre_width(), layer_.dtype) {
    if (learns(layer_.down)) activated_.emplace(layer_.R, layer_.I, layer_.dtype);
  }

  void run() {
    if (!pre_activation_) recompute();
    gradient_of_activated_rows();
    gradient_of_input();
    gradients_of_down();
    gradients_of_up();
  }

 private:
  // Whether its weight or its low-rank pair has a gradient.
  bool learns(const ExpertLinear& linear) const {
    const LinearParameters<Tensor>& gradients = op_.gradients[linear.projection];
    return gradients.weight || gradients.lora_a;
  }

  const float* output_weights() const { return op_.weight_on_input ? nullptr : row_weights_.data(); }
  const float* input_weights() const { return op_.weight_on_input ? row_weights_.data() : nullptr; }

  void recompute() {
    const StageTimer stage("recompute");
    recomputed_ = std::make_unique<Workspace>(layer_.R, layer_.pre_width(), layer_.dtype);
    pre_activation_ = recomputed_->tensor;
    project_up(layer_, op_.x, input_weights(), pre_activation_, {});
  }

  // A' = dy · down; its epilogue gives the gradient of the pre-activation rows, the (weighted) activated rows
  // again, and the gradient of the weights on the output.
  void gradient_of_activated_rows() {
    const int64_t column_tiles = (layer_.I + tile_columns() - 1) / tile_columns();
    const Workspace dots(layer_.R, column_tiles, DType::float32);
    StageTimer stage("dPre");
    low_of_down_ = layer_.products.multiply_backward(
        layer_.gathered(op_.dy), {&layer_.down, 1},
        ActivateBackward{.activation = layer_.activation,
                         .interleaved = layer_.interleaved,
                         .intermediate = layer_.I,
                         .pre_activation = pre_activation_,
                         .d_pre_activation = d_pre_.tensor,
                         .row_weights = output_weights(),
                         .weighted = activated_ ? activated_->tensor : Tensor{},
                         .dots = dots.tensor.f32()});
    recomputed_.reset();
    stage.next("dWeights");
    gradient_of_rowless_weights();
    if (!op_.weight_on_input) gradient_of_output_weights(dots.tensor.f32(), column_tiles);
  }

  // ⟨dy, down(a) + bias⟩, tile after tile in a fixed order.
  void gradient_of_output_weights(const float* dots, int64_t column_tiles) {
    const ExpertMatrix& bias = layer_.down.at.bias;
    for (int64_t e = 0; e < layer_.E; ++e) {
      const void* bias_row = bias ? row_of(bias.tensor, e, layer_.H) : nullptr;
      for (int64_t r = layer_.rows.offsets[e]; r < layer_.rows.offsets[e + 1]; ++r) {
        float sum = 0;
        for (int64_t tile = 0; tile < column_tiles; ++tile) sum += dots[r * column_tiles + tile];
        const int32_t slot = layer_.row_slot[r];
        if (bias_row != nullptr) sum += dot(op_.dy, slot / layer_.K, bias_row, bias.tensor.dtype);
        op_.d_weights.f32()[slot] = sum;
      }
    }
  }

  // ⟨dy, x⟩ where a slot returns its input, nothing where it was dropped.
  void gradient_of_rowless_weights() {
    for (int64_t slot = 0; slot < layer_.T * layer_.K; ++slot) {
      const int32_t row = op_.slot_row.i32()[slot];
      if (row >= 0) continue;
      const int64_t t = slot / layer_.K;
      const void* x = row_of(op_.x, t, layer_.H);
      op_.d_weights.f32()[slot] = row == kIdentitySlot ? dot(op_.dy, t, x, layer_.dtype) : 0;
    }
  }

  // d_pre · gate and up, row by row, summed into dx; their product with x is the gradient of weights on the
  // input.
  void gradient_of_input() {
    const Workspace d_rows(layer_.R, layer_.H, layer_.dtype);
    StageTimer stage("dRows");
    low_of_up_ = layer_.products.multiply_backward(operand_of(d_pre_.tensor), layer_.up,
                                                   StoreRows{.out = d_rows.tensor});
    if (op_.weight_on_input) {
      stage.next("dWeights");
      for (int64_t r = 0; r < layer_.rows_used; ++r) {
        const int32_t slot = layer_.row_slot[r];
        const void* d_row = row_of(d_rows.tensor, r, layer_.H);
        op_.d_weights.f32()[slot] = dot(op_.x, slot / layer_.K, d_row, layer_.dtype);
      }
    }
    stage.next("dx");
    sum_slots({.rows = d_rows.tensor,
               .slot_row = op_.slot_row,
               .weights = op_.weight_on_input ? op_.weights : Tensor{},
               .tokens = op_.dy,
               .token_weights = op_.weights,
               .out = op_.dx,
               .accumulate = op_.accumulate_dx});
  }

  void gradients_of_down() {
    const ExpertLinear& down = layer_.down;
    const Operand dy = layer_.gathered(op_.dy);
    if (activated_) {
      const StageTimer stage("dDown");
      gradients_of(down, dy, operand_of(activated_->tensor), low_of_down_[0]);
    }
    gradient_of_bias(down, dy, output_weights());
  }

  void gradients_of_up() {
    const auto d_outputs = [&](const ExpertLinear& linear) {
      return operand_of(d_pre_.tensor, linear.first);
    };
    for (const ExpertLinear& linear : layer_.up) gradient_of_bias(linear, d_outputs(linear), nullptr);
    if (std::none_of(layer_.up.begin(), layer_.up.end(),
                     [&](const ExpertLinear& linear) { return learns(linear); }))
      return;
    const StageTimer stage("dUp");
    // What multiplied the input multiplies its products with the gradient; the biases came after it.
    if (op_.weight_on_input) {
      weigh_rows(d_pre_.tensor);
      for (const std::optional<Workspace>& low : low_of_up_) {
        if (low) weigh_rows(low->tensor);
      }
    }
    for (size_t i = 0; i < layer_.up.size(); ++i) {
      const ExpertLinear& linear = layer_.up[i];
      gradients_of(linear, d_outputs(linear), layer_.gathered(op_.x), low_of_up_[i]);
    }
  }

  // The gradients of a linear's weight and low-rank pair.
  void gradients_of(const ExpertLinear& linear, const Operand& d_outputs, const Operand& input,
                    const std::optional<Workspace>& low) const {
    layer_.products.run(linear, {.d_outputs = d_outputs,
                                 .input = input,
                                 .low = low ? low->tensor : Tensor{},
                                 .into = linear.blocks_of(op_.gradients[linear.projection]),
                                 .accumulate = op_.accumulate[linear.projection]});
  }

  void gradient_of_bias(const ExpertLinear& linear, const Operand& d_outputs, const float* weights) const {
    const ExpertMatrix out = linear.blocks_of(op_.gradients[linear.projection]).bias;
    if (!out) return;
    const StageTimer stage("dBias");
    sum_groups({.groups = layer_.rows,
                .rows = d_outputs,
                .columns = linear.outputs,
                .weights = weights,
                .out = out,
                .accumulate = op_.accumulate[linear.projection].bias});
  }

  void weigh_rows(const Tensor& rows) const {
    const int64_t width = rows.dim(1);
    for_chunks(layer_.rows_used, width * static_cast<int64_t>(sizeof(float)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t r = begin; r < end; ++r) {
                   const void* row = row_of(rows, r, width);
                   kernels().sum_rows({.rows = &row,
                                       .weights = &row_weights_[static_cast<size_t>(r)],
                                       .count = 1,
                                       .width = width,
                                       .dtype = rows.dtype,
                                       .out = mutable_row_of(rows, r, width),
                                       .out_dtype = rows.dtype,
                                       .accumulate = false});
                 }
               });
  }

  // ⟨row t of tokens, other⟩
  float dot(const Tensor& tokens, int64_t t, const void* other, DType other_dtype) const {
    return kernels().dot(row_of(tokens, t, layer_.H), layer_.dtype, other, other_dtype, layer_.H);
  }

  const ExpertsBackward& op_;
  const Layer layer_;
  const RowWeights row_weights_;
  Tensor pre_activation_;
  std::unique_ptr<Workspace> recomputed_;
  Workspace d_pre_;                     // [R, I or 2I]
  std::optional<Workspace> activated_;  // [R, I], times the weight where that is on the output; if asked for
  Products::LowRankRows low_of_down_, low_of_up_;
};

}  // namespace

void run(const ExpertsBackward& op) {
  Backward(op).run();
}

}  // namespace moe::cpu
