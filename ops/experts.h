// The experts of a layer, forward and backward, over a dispatch: no permuted copy of x or dy is made.
#pragma once

#include <array>
#include <vector>

#include "ops/activation.h"
#include "ops/tensor.h"

namespace moe {

// The linear maps of an expert. Gated ones come as `gate_up`, or as `gate` and `up`; ungated ones have `up`.
enum class Projection : uint8_t { gate_up, gate, up, down };

inline constexpr std::array<Projection, 4> kProjections = {Projection::gate_up, Projection::gate,
                                                           Projection::up, Projection::down};
inline constexpr std::array<const char*, 4> kProjectionNames = {"gateUp", "gate", "up", "down"};

// What belongs to one map: y = weight · x + bias + scale · lora_b · (lora_a · x). The low-rank pair is LoRA's
// (arXiv 2106.09685).
template <class T>
struct LinearParameters {
  T weight{};  // [E, outputs, inputs], or [E, inputs, outputs] where transposed
  T bias{};    // [E, outputs]
  T lora_a{};  // [E, rank, inputs]
  T lora_b{};  // [E, outputs, rank]
};

// One T for every parameter that experts may have.
template <class T>
struct ExpertParameters {
  std::array<LinearParameters<T>, kProjections.size()> of_projection{};

  LinearParameters<T>& operator[](Projection p) { return of_projection[static_cast<size_t>(p)]; }
  const LinearParameters<T>& operator[](Projection p) const { return of_projection[static_cast<size_t>(p)]; }
};

// Parameters or their gradients; absent where not given.
using ExpertTensors = ExpertParameters<Tensor>;
// Which gradients are added to what their tensors hold.
using ExpertFlags = ExpertParameters<bool>;

struct ExpertDims {
  int64_t experts = 0, hidden = 0, intermediate = 0;
};

// The experts of a layer as they were given.
struct Experts {
  ExpertTensors parameters;
  // The outputs of a packed gate_up alternate, gate first, instead of all gates before all ups. So do the
  // columns of pre-activation rows.
  bool interleaved = false;
  bool transposed = false;
  float lora_scale = 1;

  // Whether any projection has a low-rank pair: then the pairs alone have gradients, weights and biases are
  // frozen.
  bool has_lora() const;
  // As down's weight says.
  ExpertDims dims() const;
};

// One [outputs, inputs] block of each expert, wherever it lies: layouts are strides, not copies. In elements.
struct ExpertMatrix {
  Tensor tensor;
  int64_t offset = 0;
  int64_t expert_stride = 0;
  int64_t row_stride = 0;
  int64_t column_stride = 1;

  explicit operator bool() const { return tensor.present; }
  ExpertMatrix transposed() const;
  ExpertMatrix rows_from(int64_t row) const;
};

// A projection in its place: it makes the columns [first, first + outputs) of its rows.
struct ExpertLinear {
  Projection projection = Projection::up;
  int64_t first = 0;
  int64_t outputs = 0, inputs = 0;
  bool transposed = false;
  float lora_scale = 1;
  LinearParameters<ExpertMatrix> at;  // its parameters

  // Of its low-rank pair.
  int64_t rank() const { return at.lora_a.tensor.dim(1); }

  // Tensors shaped as its parameters are, as blocks: its gradients.
  LinearParameters<ExpertMatrix> blocks_of(const LinearParameters<Tensor>& tensors) const;
};

// The maps from x to the pre-activation rows: one, or gate and up.
std::vector<ExpertLinear> up_projections(const Experts& experts, const ActivationSpec& activation);
ExpertLinear down_projection(const Experts& experts);

// y[t] (+)= Σ_k weights[t, k] · down_e(activation(up_e(x[t]))), or with the weight on up's input; identity
// slots add weights[t, k] · x[t]
struct ExpertsForward {
  ActivationSpec activation;
  Tensor x;                            // [T, H]
  Tensor offsets, row_slot, slot_row;  // the dispatch
  Tensor weights;                      // float32 [T, K]
  Experts experts;
  // The weight multiplies the expert's input (before up's bias) instead of its output.
  bool weight_on_input = false;
  Tensor y;  // [T, H], out
  bool accumulate_y = false;
  Tensor pre_activation;  // [R, 2I] (see Experts::interleaved) or [R, I], out, optional
};

// Gradients of ExpertsForward to x, the routing weights and every parameter that is not frozen.
struct ExpertsBackward {
  ActivationSpec activation;
  Tensor dy, x;                        // [T, H]
  Tensor offsets, row_slot, slot_row;  // the dispatch
  Tensor weights;                      // float32 [T, K]
  Experts experts;
  bool weight_on_input = false;
  Tensor pre_activation;  // as the forward left it; recomputed from x where absent
  Tensor dx;              // [T, H], out
  bool accumulate_dx = false;
  Tensor d_weights;  // float32 [T, K], out
  ExpertTensors gradients;
  ExpertFlags accumulate;
};

}  // namespace moe
