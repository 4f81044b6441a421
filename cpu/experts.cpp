// The experts of a layer: grouped products with their gathers, activations and weights fused.
//
// Forward: up (gathers x) → activated rows → down → combine. Backward, after SonicMoE (arXiv 2512.14080): one
// product A' = dy·W₂ whose epilogue gives the gradients of the pre-activation and of the routing weights and
// the weighted activated rows, then dW₂, dW₁ and the rows of dx. Bound by FLOPs, or for few rows by the bytes
// of the touched experts.
#include "ops/experts.h"

#include <memory>
#include <vector>

#include "cpu/backend.h"
#include "cpu/combine.h"
#include "cpu/expert_gemm.h"
#include "cpu/loops.h"
#include "cpu/workspace.h"

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
        I(op.experts.down.dim(2)),
        gated(is_gated(op.activation)),
        dtype(op.x.dtype),
        activation(op.activation),
        offsets(op.offsets.i32()),
        row_slot(op.row_slot.i32()),
        parts(split_gate_up(op.experts, I)),
        down{op.experts.down, 0, H * I, I},
        down_bias{op.experts.down_bias, 0, H, 1} {
    check_offsets(op.offsets, R);
    rows_used = offsets[E];
    check_range("rowSlot", op.row_slot, T * K, 0, rows_used);
    check_range("slotRow", op.slot_row, rows_used, kIdentitySlot);
  }

  int64_t pre_width() const { return gated ? 2 * I : I; }

  // Token rows in the order of the routed rows.
  Operand gathered(const Tensor& tokens) const {
    return {.data = tokens.data,
            .dtype = tokens.dtype,
            .row_stride = tokens.dim(1),
            .row_index = row_slot,
            .row_divisor = static_cast<int32_t>(K)};
  }

  static Operand routed(const Tensor& rows, int64_t first_column = 0) {
    return {.data = row_of(rows, first_column, 1), .dtype = rows.dtype, .row_stride = rows.dim(1)};
  }

  int64_t T, H, K, R, E, I;
  // At most R, which need not be T·K: dropped and identity slots have no row.
  int64_t rows_used = 0;
  bool gated;
  DType dtype;
  ActivationSpec activation;
  const int32_t* offsets;
  const int32_t* row_slot;
  GateUp parts;
  ExpertMatrix down, down_bias;
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
  GroupedGemm gemm = {
      .groups = layer.E, .offsets = layer.offsets, .n = layer.I, .k = layer.H, .a = layer.gathered(x)};
  set_halves(gemm, layer.parts, Halves::lanes);
  grouped_gemm(gemm, Activate{.activation = layer.activation,
                              .intermediate = layer.I,
                              .gate_bias = layer.parts.gate_bias,
                              .up_bias = layer.parts.up_bias,
                              .pre_activation = pre_activation,
                              .out = activated,
                              .row_weights = weights});
}

void project_down(const Layer& layer, const Tensor& activated, const Tensor& rows) {
  const GroupedGemm gemm = {.groups = layer.E,
                            .offsets = layer.offsets,
                            .n = layer.H,
                            .k = layer.I,
                            .a = Layer::routed(activated),
                            .b = {operand_of(layer.down)}};
  grouped_gemm(gemm, StoreRows{.out = rows, .bias = layer.down_bias});
}

}  // namespace

void run(const ExpertsForward& op) {
  const Layer layer(op);
  const Workspace activated(layer.R, layer.I, layer.dtype), rows(layer.R, layer.H, layer.dtype);
  const RowWeights row_weights = op.weight_on_input ? weights_of_rows(layer, op.weights) : RowWeights();
  project_up(layer, op.x, op.weight_on_input ? row_weights.data() : nullptr, op.pre_activation,
             activated.tensor);
  project_down(layer, activated.tensor, rows.tensor);
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
        d_pre_(layer_.R, layer_.pre_width(), layer_.dtype),
        activated_(layer_.R, layer_.I, layer_.dtype) {}

  void run() {
    if (!pre_activation_) recompute();
    gradient_of_activated_rows();
    gradient_of_input();
    gradients_of_down();
    gradients_of_up();
  }

 private:
  const float* output_weights() const { return op_.weight_on_input ? nullptr : row_weights_.data(); }
  const float* input_weights() const { return op_.weight_on_input ? row_weights_.data() : nullptr; }

  void recompute() {
    recomputed_ = std::make_unique<Workspace>(layer_.R, layer_.pre_width(), layer_.dtype);
    pre_activation_ = recomputed_->tensor;
    project_up(layer_, op_.x, input_weights(), pre_activation_, {});
  }

  // A' = dy · down; its epilogue gives the gradient of the pre-activation rows, the (weighted) activated rows
  // again, and the gradient of the weights on the output.
  void gradient_of_activated_rows() {
    const int64_t tile_width = tile_columns(Halves::none);
    const int64_t column_tiles = (layer_.I + tile_width - 1) / tile_width;
    const Workspace dots(layer_.R, column_tiles, DType::float32);
    const GroupedGemm gemm = {.groups = layer_.E,
                              .offsets = layer_.offsets,
                              .n = layer_.I,
                              .k = layer_.H,
                              .a = layer_.gathered(op_.dy),
                              .b = {operand_of(layer_.down)},
                              .b_k_contiguous = false};
    grouped_gemm(gemm, ActivateBackward{.activation = layer_.activation,
                                        .intermediate = layer_.I,
                                        .pre_activation = pre_activation_,
                                        .d_pre_activation = d_pre_.tensor,
                                        .row_weights = output_weights(),
                                        .weighted = activated_.tensor,
                                        .dots = dots.tensor.f32()});
    recomputed_.reset();
    gradient_of_rowless_weights();
    if (!op_.weight_on_input) gradient_of_output_weights(dots.tensor.f32(), column_tiles);
  }

  // ⟨dy, down(a) + bias⟩, tile after tile in a fixed order.
  void gradient_of_output_weights(const float* dots, int64_t column_tiles) {
    const ExpertMatrix& bias = layer_.down_bias;
    for (int64_t e = 0; e < layer_.E; ++e) {
      const void* bias_row = bias ? row_of(bias.tensor, e, layer_.H) : nullptr;
      for (int64_t r = layer_.offsets[e]; r < layer_.offsets[e + 1]; ++r) {
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
    GroupedGemm gemm = {.groups = layer_.E,
                        .offsets = layer_.offsets,
                        .n = layer_.H,
                        .k = layer_.pre_width(),
                        .a = Layer::routed(d_pre_.tensor),
                        .b_k_contiguous = false};
    set_halves(gemm, layer_.parts, Halves::steps);
    grouped_gemm(gemm, StoreRows{.out = d_rows.tensor});
    if (op_.weight_on_input) {
      for (int64_t r = 0; r < layer_.rows_used; ++r) {
        const int32_t slot = layer_.row_slot[r];
        const void* d_row = row_of(d_rows.tensor, r, layer_.H);
        op_.d_weights.f32()[slot] = dot(op_.x, slot / layer_.K, d_row, layer_.dtype);
      }
    }
    sum_slots({.rows = d_rows.tensor,
               .slot_row = op_.slot_row,
               .weights = op_.weight_on_input ? op_.weights : Tensor{},
               .tokens = op_.dy,
               .token_weights = op_.weights,
               .out = op_.dx,
               .accumulate = op_.accumulate_dx});
  }

  void gradients_of_down() {
    const int64_t H = layer_.H, I = layer_.I;
    const Operand dy = layer_.gathered(op_.dy);
    const ExpertTensors& into = op_.gradients;
    weight_gradient(dy, H, Layer::routed(activated_.tensor), I, {into.down, 0, H * I, I},
                    op_.accumulate.down);
    bias_gradient(dy, H, output_weights(), {into.down_bias, 0, H, 1}, op_.accumulate.down_bias);
  }

  void gradients_of_up() {
    const GateUp into = split_gate_up(op_.gradients, layer_.I);
    const ExpertFlags& add = op_.accumulate;
    const bool packed = op_.gradients.gate_up.present, packed_bias = op_.gradients.gate_up_bias.present;
    const Operand d_gate = Layer::routed(d_pre_.tensor);
    const Operand d_up = Layer::routed(d_pre_.tensor, layer_.gated ? layer_.I : 0);
    if (layer_.gated)
      bias_gradient(d_gate, layer_.I, nullptr, into.gate_bias,
                    packed_bias ? add.gate_up_bias : add.gate_bias);
    bias_gradient(d_up, layer_.I, nullptr, into.up_bias, packed_bias ? add.gate_up_bias : add.up_bias);

    // What multiplied the input multiplies its products with the gradient; the biases came after it.
    if (op_.weight_on_input) weigh_rows(d_pre_.tensor);
    const Operand x = layer_.gathered(op_.x);
    if (layer_.gated)
      weight_gradient(d_gate, layer_.I, x, layer_.H, into.gate, packed ? add.gate_up : add.gate);
    weight_gradient(d_up, layer_.I, x, layer_.H, into.up, packed ? add.gate_up : add.up);
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

  // out[e] (+)= Σ_r leftᵀ · right over the rows of expert e; left's columns are out's rows.
  void weight_gradient(const Operand& left, int64_t left_columns, const Operand& right, int64_t right_columns,
                       const ExpertMatrix& out, bool accumulate) const {
    if (!out) return;
    const GroupedGemm gemm = {.groups = layer_.E,
                              .offsets = layer_.offsets,
                              .ragged = Ragged::k,
                              .m = left_columns,
                              .n = right_columns,
                              .a = left,
                              .a_k_contiguous = false,
                              .b = {right},
                              .b_k_contiguous = false};
    grouped_gemm(gemm, StoreBlock{.out = out, .accumulate = accumulate});
  }

  void bias_gradient(const Operand& rows, int64_t columns, const float* weights, const ExpertMatrix& out,
                     bool accumulate) const {
    if (!out) return;
    sum_groups({.groups = layer_.E,
                .offsets = layer_.offsets,
                .rows = rows,
                .columns = columns,
                .weights = weights,
                .out = out,
                .accumulate = accumulate});
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
  Workspace d_pre_;      // [R, I or 2I]
  Workspace activated_;  // [R, I], times the weight where that is on the output
};

}  // namespace

void run(const ExpertsBackward& op) {
  Backward(op).run();
}

}  // namespace moe::cpu
