// The experts of a layer: grouped products with their gathers, activations and weights fused.
//
// Forward: up (gathers x) → activated rows → down → combine. Backward, after SonicMoE (arXiv 2512.14080): one
// product A' = dy·W₂ whose epilogue gives the gradients of the pre-activation and of the routing weights and
// the weighted activated rows, then dW₂, dW₁ and the rows of dx. Bound by FLOPs, or for few rows by the bytes
// of the touched experts. The twin of cpu/experts.cpp.
#include "ops/experts.h"

#include <algorithm>

#include "cuda/backend.h"
#include "cuda/combine.h"
#include "cuda/expert_linear.h"

namespace moe::cuda {
namespace {

// Dimensions and operands that the stages of one layer share, forward or backward.
struct Layer {
  template <class Op>
  Layer(const Op& op, const Context& context)
      : T(op.x.dim(0)),
        H(op.x.dim(1)),
        K(op.slot_row.dim(1)),
        R(op.row_slot.dim(0)),
        E(op.offsets.dim(0) - 1),
        I(op.experts.dims().intermediate),
        dtype(op.x.dtype),
        activation(op.activation),
        interleaved(op.experts.interleaved),
        row_slot(op.row_slot),
        rows(routed_rows(op.offsets, R)),
        products(ProductBackend{context}, rows),
        up(up_projections(op.experts, op.activation)),
        down(down_projection(op.experts)),
        weights{.of_slot = op.weights.f32(), .row_slot = op.row_slot.i32(), .slots = T * K} {
    check_dispatch(rows, op.row_slot, op.slot_row, context);
  }

  int64_t pre_width() const { return is_gated(activation) ? 2 * I : I; }

  // Token rows in the order of the routed rows.
  Operand gathered(const Tensor& tokens) const {
    return {.data = tokens.data,
            .dtype = tokens.dtype,
            .row_stride = tokens.dim(1),
            .row_index = row_slot.i32(),
            .row_divisor = static_cast<int32_t>(K),
            .row_count = T};
  }

  // R need not be T·K: dropped and identity slots have no row.
  int64_t T, H, K, R, E, I;
  DType dtype;
  ActivationSpec activation;
  bool interleaved;
  Tensor row_slot;
  RoutedRows rows;
  Products products;
  std::vector<ExpertLinear> up;
  ExpertLinear down;
  RowWeights weights;
};

// x · gate and up; activated rows and pre-activation rows, each where its tensor is present. `weights`
// multiply the input of each row.
struct ProjectUp {
  Tensor x;
  RowWeights weights;
  Tensor pre_activation, activated;
};
void project_up(const Layer& layer, const ProjectUp& stage) {
  layer.products.multiply_and_activate(
      layer.gathered(stage.x), layer.up,
      {.activation = layer.activation,
       .interleaved = layer.interleaved,
       .intermediate = layer.I,
       .dtype = layer.dtype,
       .pre_activation = stage.pre_activation ? stage.pre_activation.data : nullptr,
       .out = stage.activated ? stage.activated.data : nullptr,
       .row_weights = stage.weights});
}

}  // namespace

void run(const ExpertsForward& op, const Context& context) {
  const Layer layer(op, context);
  const Workspace activated = context.workspace(layer.R, layer.I, layer.dtype);
  StageTimer stage(context, "up");
  project_up(layer, {.x = op.x,
                     .weights = op.weight_on_input ? layer.weights : RowWeights{},
                     .pre_activation = op.pre_activation,
                     .activated = activated.tensor});
  const Workspace rows = context.workspace(layer.R, layer.H, layer.dtype);
  stage.next("down");
  layer.products.multiply(operand_of(activated.tensor), layer.down,
                          Store{.out = block_of(rows.tensor), .bias = bias_block(layer.down.at.bias)});
  stage.next("combine");
  sum_slots({.rows = rows.tensor,
             .slot_row = op.slot_row,
             .weights = op.weight_on_input ? Tensor{} : op.weights,
             .tokens = op.x,
             .token_weights = op.weights,
             .out = op.y,
             .accumulate = op.accumulate_y},
            context);
}

namespace {

// The backward pass of one layer: its stages in order, and what they hand on.
class Backward {
 public:
  Backward(const ExpertsBackward& op, const Context& context)
      : op_(op),
        context_(context),
        layer_(op, context),
        pre_activation_(op.pre_activation),
        d_pre_(context.workspace(layer_.R, layer_.pre_width(), layer_.dtype)) {
    if (learns(layer_.down)) activated_ = context.workspace(layer_.R, layer_.I, layer_.dtype);
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

  RowWeights output_weights() const { return op_.weight_on_input ? RowWeights{} : layer_.weights; }
  RowWeights input_weights() const { return op_.weight_on_input ? layer_.weights : RowWeights{}; }

  void recompute() {
    const StageTimer stage(context_, "recompute");
    recomputed_ = context_.workspace(layer_.R, layer_.pre_width(), layer_.dtype);
    pre_activation_ = recomputed_->tensor;
    project_up(layer_,
               {.x = op_.x, .weights = input_weights(), .pre_activation = pre_activation_, .activated = {}});
  }

  // A' = dy · down; its epilogue gives the gradient of the pre-activation rows, the (weighted) activated rows
  // again, and the gradient of the weights on the output.
  void gradient_of_activated_rows() {
    const int64_t column_tiles = (layer_.I + kDotColumns - 1) / kDotColumns;
    const Workspace dots = context_.workspace(layer_.R, column_tiles, DType::float32);
    StageTimer stage(context_, "dPre");
    low_of_down_ = layer_.products.multiply_backward(
        layer_.gathered(op_.dy), {&layer_.down, 1},
        ActivateBackward{.activation = layer_.activation,
                         .interleaved = layer_.interleaved,
                         .intermediate = layer_.I,
                         .dtype = layer_.dtype,
                         .pre_activation = pre_activation_.data,
                         .d_pre_activation = d_pre_.tensor.data,
                         .row_weights = output_weights(),
                         .weighted = activated_ ? activated_->tensor.data : nullptr,
                         .dots = dots.tensor.f32()});
    recomputed_.reset();
    stage.next("dWeights");
    // ⟨dy, x⟩ where a slot returns its input, nothing where it was dropped.
    gradient_of_rowless_weights(
        {.dy = op_.dy, .tokens = op_.x, .slot_row = op_.slot_row, .d_weights = op_.d_weights}, context_);
    if (op_.weight_on_input) return;
    // ⟨dy, down(a) + bias⟩
    Block bias = block_of(layer_.down.at.bias);
    bias.row_stride = 0;
    dot_rows(layer_.rows,
             {.row_slot = op_.row_slot,
              .partials = dots.tensor,
              .tokens = op_.dy,
              .other = bias,
              .d_weights = op_.d_weights},
             context_);
  }

  // d_pre · gate and up, row by row, summed into dx; their product with x is the gradient of weights on the
  // input.
  void gradient_of_input() {
    const Workspace d_rows = context_.workspace(layer_.R, layer_.H, layer_.dtype);
    StageTimer stage(context_, "dRows");
    low_of_up_ = layer_.products.multiply_backward(operand_of(d_pre_.tensor), layer_.up,
                                                   Store{.out = block_of(d_rows.tensor)});
    if (op_.weight_on_input) {
      stage.next("dWeights");
      dot_rows(layer_.rows,
               {.row_slot = op_.row_slot,
                .partials = {},
                .tokens = op_.x,
                .other = block_of(d_rows.tensor),
                .d_weights = op_.d_weights},
               context_);
    }
    stage.next("dx");
    sum_slots({.rows = d_rows.tensor,
               .slot_row = op_.slot_row,
               .weights = op_.weight_on_input ? op_.weights : Tensor{},
               .tokens = op_.dy,
               .token_weights = op_.weights,
               .out = op_.dx,
               .accumulate = op_.accumulate_dx},
              context_);
  }

  void gradients_of_down() {
    const ExpertLinear& down = layer_.down;
    const Operand dy = layer_.gathered(op_.dy);
    if (activated_) {
      const StageTimer stage(context_, "dDown");
      gradients_of(down, dy, operand_of(activated_->tensor), low_of_down_[0]);
    }
    gradient_of_bias(down, dy, output_weights());
  }

  void gradients_of_up() {
    const auto d_outputs = [&](const ExpertLinear& linear) {
      return operand_of(d_pre_.tensor, linear.first);
    };
    for (const ExpertLinear& linear : layer_.up) gradient_of_bias(linear, d_outputs(linear), {});
    if (std::none_of(layer_.up.begin(), layer_.up.end(),
                     [&](const ExpertLinear& linear) { return learns(linear); }))
      return;
    const StageTimer stage(context_, "dUp");
    // What multiplied the input multiplies its products with the gradient; the biases came after it.
    if (op_.weight_on_input) {
      weigh_rows(layer_.rows, d_pre_.tensor, layer_.weights, context_);
      for (const std::optional<Workspace>& low : low_of_up_) {
        if (low) weigh_rows(layer_.rows, low->tensor, layer_.weights, context_);
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

  void gradient_of_bias(const ExpertLinear& linear, const Operand& d_outputs,
                        const RowWeights& weights) const {
    const ExpertMatrix out = linear.blocks_of(op_.gradients[linear.projection]).bias;
    if (!out) return;
    const StageTimer stage(context_, "dBias");
    sum_groups(layer_.rows,
               {.rows = d_outputs,
                .columns = linear.outputs,
                .weights = weights,
                .out = bias_block(out),
                .accumulate = op_.accumulate[linear.projection].bias},
               context_);
  }

  const ExpertsBackward& op_;
  const Context& context_;
  const Layer layer_;
  Tensor pre_activation_;
  std::optional<Workspace> recomputed_;
  Workspace d_pre_;                     // [R, I or 2I]
  std::optional<Workspace> activated_;  // [R, I], times the weight where that is on the output; if asked for
  Products::LowRankRows low_of_down_, low_of_up_;
};

}  // namespace

void run(const ExpertsBackward& op, const Context& context) {
  Backward(op, context).run();
}

}  // namespace moe::cuda
