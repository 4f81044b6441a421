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
#include "cpu/expert_gemm.h"
#include "cpu/loops.h"
#include "cpu/memory.h"

namespace moe::cpu {
namespace {

// A matrix that lives as long as the op.
struct Workspace {
  Workspace(int64_t rows, int64_t columns, DType dtype)
      : tensor{.dtype = dtype, .rank = 2, .dims = {rows, columns}, .present = true},
        storage(allocate_storage(tensor.bytes())) {
    tensor.data = storage->data();
  }

  Tensor tensor;
  std::shared_ptr<Storage> storage;
};

// Dimensions and operands that the stages of one layer share, forward or backward.
struct Layer {
  template <class Op>
  explicit Layer(const Op& op)
      : T(op.x.dim(0)),
        H(op.x.dim(1)),
        K(op.slot_row.dim(1)),
        R(T * K),
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
    check_range("rowSlot", op.row_slot, R);
    check_range("slotRow", op.slot_row, R);
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
  bool gated;
  DType dtype;
  Activation activation;
  const int32_t* offsets;
  const int32_t* row_slot;
  GateUp parts;
  ExpertMatrix down, down_bias;
};

// x · gate and up; activated rows and pre-activation rows, each where its tensor is present.
void project_up(const Layer& layer, const Tensor& x, const Tensor& pre_activation, const Tensor& activated) {
  GroupedGemm gemm = {
      .groups = layer.E, .offsets = layer.offsets, .n = layer.I, .k = layer.H, .a = layer.gathered(x)};
  set_halves(gemm, layer.parts, Halves::lanes);
  grouped_gemm(gemm, Activate{.activation = layer.activation,
                              .intermediate = layer.I,
                              .gate_bias = layer.parts.gate_bias,
                              .up_bias = layer.parts.up_bias,
                              .pre_activation = pre_activation,
                              .out = activated});
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
  project_up(layer, op.x, op.pre_activation, activated.tensor);
  project_down(layer, activated.tensor, rows.tensor);
  run(Combine{.rows = rows.tensor, .slot_row = op.slot_row, .weights = op.weights, .y = op.y});
}

namespace {

// What the first product of the backward pass leaves for the others.
struct RowGradients {
  explicit RowGradients(const Layer& layer)
      : d_pre(layer.R, layer.pre_width(), layer.dtype),
        weighted(layer.R, layer.I, layer.dtype),
        weights(layer.R, 1, DType::float32) {}

  Workspace d_pre;     // [R, I or 2I]
  Workspace weighted;  // [R, I]: routing weight times activated row
  Workspace weights;   // [R]: the routing weight of each row
};

// A' = dy · down, through its epilogue, and the gradient of the routing weights.
void activated_gradients(const Layer& layer, const ExpertsBackward& op, const Tensor& pre_activation,
                         RowGradients& rows) {
  float* row_weights = rows.weights.tensor.f32();
  for (int64_t r = 0; r < layer.R; ++r) row_weights[r] = op.weights.f32()[layer.row_slot[r]];
  const int64_t tile_width = tile_columns(Halves::none);
  const int64_t column_tiles = (layer.I + tile_width - 1) / tile_width;
  const Workspace dots(layer.R, column_tiles, DType::float32);
  const GroupedGemm gemm = {.groups = layer.E,
                            .offsets = layer.offsets,
                            .n = layer.I,
                            .k = layer.H,
                            .a = layer.gathered(op.dy),
                            .b = {operand_of(layer.down)},
                            .b_k_contiguous = false};
  grouped_gemm(gemm, ActivateBackward{.activation = layer.activation,
                                      .intermediate = layer.I,
                                      .pre_activation = pre_activation,
                                      .d_pre_activation = rows.d_pre.tensor,
                                      .row_weights = row_weights,
                                      .weighted = rows.weighted.tensor,
                                      .dots = dots.tensor.f32()});
  // ⟨dy, down(a) + bias⟩, tile after tile in a fixed order.
  for (int64_t e = 0; e < layer.E; ++e) {
    const void* bias = layer.down_bias ? row_of(layer.down_bias.tensor, e, layer.H) : nullptr;
    for (int64_t r = layer.offsets[e]; r < layer.offsets[e + 1]; ++r) {
      float sum = 0;
      for (int64_t tile = 0; tile < column_tiles; ++tile) sum += dots.tensor.f32()[r * column_tiles + tile];
      const int32_t slot = layer.row_slot[r];
      if (bias != nullptr) {
        const void* dy = row_of(op.dy, slot / layer.K, layer.H);
        sum += kernels().dot(dy, layer.dtype, bias, layer.down_bias.tensor.dtype, layer.H);
      }
      op.d_weights.f32()[slot] = sum;
    }
  }
}

// out[e] (+)= Σ_r leftᵀ · right over the rows of expert e; left's columns are out's rows.
void weight_gradient(const Layer& layer, const Operand& left, int64_t left_columns, const Operand& right,
                     int64_t right_columns, const ExpertMatrix& out, bool accumulate) {
  if (!out) return;
  const GroupedGemm gemm = {.groups = layer.E,
                            .offsets = layer.offsets,
                            .ragged = Ragged::k,
                            .m = left_columns,
                            .n = right_columns,
                            .a = left,
                            .a_k_contiguous = false,
                            .b = {right},
                            .b_k_contiguous = false};
  grouped_gemm(gemm, StoreBlock{.out = out, .accumulate = accumulate});
}

void bias_gradient(const Layer& layer, const Operand& rows, int64_t columns, const float* weights,
                   const ExpertMatrix& out, bool accumulate) {
  if (!out) return;
  sum_groups({.groups = layer.E,
              .offsets = layer.offsets,
              .rows = rows,
              .columns = columns,
              .weights = weights,
              .out = out,
              .accumulate = accumulate});
}

void parameter_gradients(const Layer& layer, const ExpertsBackward& op, const RowGradients& rows) {
  const auto& [H, I] = std::pair{layer.H, layer.I};
  const Operand x = layer.gathered(op.x), dy = layer.gathered(op.dy);
  const Operand d_gate = Layer::routed(rows.d_pre.tensor);
  const Operand d_up = Layer::routed(rows.d_pre.tensor, layer.gated ? I : 0);
  const GateUp into = split_gate_up(op.gradients, I);
  const ExpertFlags& add = op.accumulate;
  const bool packed = static_cast<bool>(op.gradients.gate_up);
  const bool packed_bias = static_cast<bool>(op.gradients.gate_up_bias);

  weight_gradient(layer, dy, H, Layer::routed(rows.weighted.tensor), I, {op.gradients.down, 0, H * I, I},
                  add.down);
  if (layer.gated) weight_gradient(layer, d_gate, I, x, H, into.gate, packed ? add.gate_up : add.gate);
  weight_gradient(layer, d_up, I, x, H, into.up, packed ? add.gate_up : add.up);
  bias_gradient(layer, dy, H, rows.weights.tensor.f32(), {op.gradients.down_bias, 0, H, 1}, add.down_bias);
  if (layer.gated)
    bias_gradient(layer, d_gate, I, nullptr, into.gate_bias, packed_bias ? add.gate_up_bias : add.gate_bias);
  bias_gradient(layer, d_up, I, nullptr, into.up_bias, packed_bias ? add.gate_up_bias : add.up_bias);
}

// dx[t] = Σ_k d_pre of (t, k) · gate and up
void input_gradient(const Layer& layer, const ExpertsBackward& op, const RowGradients& rows) {
  const Workspace d_rows(layer.R, layer.H, layer.dtype);
  GroupedGemm gemm = {.groups = layer.E,
                      .offsets = layer.offsets,
                      .n = layer.H,
                      .k = layer.pre_width(),
                      .a = Layer::routed(rows.d_pre.tensor),
                      .b_k_contiguous = false};
  set_halves(gemm, layer.parts, Halves::steps);
  grouped_gemm(gemm, StoreRows{.out = d_rows.tensor});
  run(Combine{.rows = d_rows.tensor, .slot_row = op.slot_row, .weights = {}, .y = op.dx});
}

}  // namespace

void run(const ExpertsBackward& op) {
  const Layer layer(op);
  Tensor pre_activation = op.pre_activation;
  std::unique_ptr<Workspace> recomputed;
  if (!pre_activation) {
    recomputed = std::make_unique<Workspace>(layer.R, layer.pre_width(), layer.dtype);
    pre_activation = recomputed->tensor;
    project_up(layer, op.x, pre_activation, {});
  }
  RowGradients rows(layer);
  activated_gradients(layer, op, pre_activation, rows);
  recomputed.reset();
  parameter_gradients(layer, op, rows);
  input_gradient(layer, op, rows);
}

}  // namespace moe::cpu
