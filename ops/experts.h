// The experts of a layer, forward and backward, over a dispatch: no permuted copy of x or dy is made.
#pragma once

#include "ops/activation.h"
#include "ops/tensor.h"

namespace moe {

// Weights in either published layout: `gate_up`, or `gate` and `up`, or (ungated) `up` alone. Also the shape
// of their gradients.
struct ExpertTensors {
  Tensor gate_up;             // [E, 2I, H], gate rows first
  Tensor gate, up;            // [E, I, H]
  Tensor down;                // [E, H, I]
  Tensor gate_up_bias;        // [E, 2I]
  Tensor gate_bias, up_bias;  // [E, I]
  Tensor down_bias;           // [E, H]
};

// One [E, rows, columns] block of a weight, wherever it lies: packed layouts are strides, not copies. In
// elements.
struct ExpertMatrix {
  Tensor tensor;
  int64_t offset = 0;
  int64_t expert_stride = 0;
  int64_t row_stride = 0;

  explicit operator bool() const { return tensor.present; }
};

// The gate block and the up block of the up projection; ungated experts have `up` alone.
struct GateUp {
  ExpertMatrix gate, up;
  ExpertMatrix gate_bias, up_bias;  // row_stride unused
};

// `intermediate` is I. Works on weights and on gradients.
GateUp split_gate_up(const ExpertTensors& experts, int64_t intermediate);

// y[t] (+)= Σ_k weights[t, k] · down_e(activation(up_e(x[t]))), or with the weight on up's input; identity
// slots add weights[t, k] · x[t]
struct ExpertsForward {
  ActivationSpec activation;
  Tensor x;                            // [T, H]
  Tensor offsets, row_slot, slot_row;  // the dispatch
  Tensor weights;                      // float32 [T, K]
  ExpertTensors experts;
  // The weight multiplies the expert's input (before up's bias) instead of its output.
  bool weight_on_input = false;
  Tensor y;  // [T, H], out
  bool accumulate_y = false;
  Tensor pre_activation;  // [R, 2I] (gate columns first) or [R, I], out, optional
};

// Which gradients are added to what their tensors hold, in the order of ExpertTensors.
struct ExpertFlags {
  bool gate_up = false, gate = false, up = false, down = false;
  bool gate_up_bias = false, gate_bias = false, up_bias = false, down_bias = false;
};

// Gradients of ExpertsForward to x, the routing weights and every given parameter.
struct ExpertsBackward {
  ActivationSpec activation;
  Tensor dy, x;                        // [T, H]
  Tensor offsets, row_slot, slot_row;  // the dispatch
  Tensor weights;                      // float32 [T, K]
  ExpertTensors experts;
  bool weight_on_input = false;
  Tensor pre_activation;  // as the forward left it; recomputed from x where absent
  Tensor dx;              // [T, H], out
  bool accumulate_dx = false;
  Tensor d_weights;  // float32 [T, K], out
  ExpertTensors gradients;
  ExpertFlags accumulate;
};

}  // namespace moe
