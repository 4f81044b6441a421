// The last trusted gate: shapes and dtypes of every op, whatever the caller in front of it checked.
#include <initializer_list>
#include <string>

#include "ops/error.h"
#include "ops/op.h"

namespace moe {
namespace {

using Dims = std::initializer_list<int64_t>;
constexpr int64_t kAny = -1;

std::string text_of(std::span<const int64_t> dims) {
  std::string text = "[";
  for (size_t axis = 0; axis < dims.size(); ++axis) {
    if (axis > 0) text += ", ";
    text += dims[axis] == kAny ? "*" : std::to_string(dims[axis]);
  }
  return text + "]";
}

void expect_shape(const char* name, const Tensor& tensor, Dims dims) {
  bool matches = tensor.present && tensor.rank == static_cast<int>(dims.size());
  int axis = 0;
  for (int64_t size : dims) {
    matches = matches && (size == kAny || tensor.dim(axis) == size);
    ++axis;
  }
  if (matches) return;
  throw Error(kErrShape, std::string(name) + ": expected shape " + text_of({dims.begin(), dims.size()}) +
                             ", got " + (tensor.present ? text_of(tensor.shape()) : "nothing"));
}

void expect(const char* name, const Tensor& tensor, DType dtype, Dims dims) {
  expect_shape(name, tensor, dims);
  if (tensor.dtype == dtype) return;
  throw Error(kErrDType,
              std::string(name) + ": expected dtype " + name_of(dtype) + ", got " + name_of(tensor.dtype));
}

void expect_float(const char* name, const Tensor& tensor, Dims dims) {
  expect_shape(name, tensor, dims);
  if (is_float(tensor.dtype)) return;
  throw Error(kErrDType, std::string(name) + ": expected a float dtype, got " + name_of(tensor.dtype));
}

// Parameters beside activations of `dtype`: biases, router weights and gradients may be float32 instead.
DType wide(const Tensor& tensor, DType dtype) {
  return tensor.present && tensor.dtype == DType::float32 ? DType::float32 : dtype;
}
void expect_wide(const char* name, const Tensor& tensor, DType dtype, Dims dims) {
  expect(name, tensor, wide(tensor, dtype), dims);
}

void require(bool holds, const char* sentence) {
  if (!holds) throw Error(kErrInvalidArgument, sentence);
}

template <class Enum, size_t N>
void check_enum(Enum value, const std::array<const char*, N>& names, const char* sentence) {
  require(static_cast<size_t>(value) < names.size(), sentence);
}

void check_router(const RouterConfig& router, int64_t tokens, int64_t experts) {
  require(router.top_k >= 1 && router.top_k <= experts, "topK: expected 1 to the number of experts");
  check_enum(router.score, kScoreNames, "score: expected a known score function");
  check_enum(router.softmax_over, kSoftmaxOverNames, "softmaxOver: expected all or selected");
  check_enum(router.group_score, kGroupScoreNames, "groups.score: expected max or top2sum");
  check_enum(router.choice, kChoiceNames, "choice: expected best, all or given");
  check_enum(router.noise.kind, kNoiseKindNames, "noise.kind: expected a known kind of noise");
  check_enum(router.capacity.policy, kDropPolicyNames,
             "capacity.dropPolicy: expected position or probability");
  require(router.group_count == 0 || (router.group_count > 0 && experts % router.group_count == 0),
          "groups.count: expected a divisor of the number of experts");
  require(router.group_count == 0 || (router.group_top >= 1 && router.group_top <= router.group_count),
          "groups.top: expected 1 to count");
  require(router.identity_experts >= 0 && router.identity_experts < experts,
          "identityExperts: expected fewer than the router has logits");
  require(router.choice != Choice::all || router.top_k == experts,
          "topK: expected the number of experts where all are chosen");
  require(router.capacity.rows_per_expert >= 0, "capacity: expected a number of rows");
  const bool by_sequence = router.by_sequence || router.capacity.by_sequence;
  const int64_t length = router.sequence_length;
  require(length >= (by_sequence ? 1 : 0) && (length == 0 || tokens % length == 0),
          "sequenceLength: expected a divisor of the number of tokens");
}

void check_activation(const ActivationSpec& activation) {
  require(static_cast<size_t>(activation.function) < kActivationNames.size(),
          "activation: expected a known activation");
}

void check(const Fill& op) {
  require(op.out.present, "out: expected a tensor");
}

void check(const Cast& op) {
  require(op.source.present && op.out.present, "source, out: expected tensors");
  require(op.source.elements() == op.out.elements(), "out: expected as many elements as source");
  const bool same = op.source.dtype == op.out.dtype;
  const bool to_or_from_f32 = op.source.dtype == DType::float32 || op.out.dtype == DType::float32;
  require(same || to_or_from_f32 || (is_float(op.source.dtype) && is_float(op.out.dtype)),
          "dtype: expected float32 to or from int32");
}

// A router's matrices beside x, or their gradients beside it. Those that are absent pass.
void check_matrices(const RouterMatrices& matrices, int64_t experts, int64_t hidden) {
  const auto matrix = [](const char* name, const Tensor& tensor, Dims dims) {
    if (tensor) expect_float(name, tensor, dims);
  };
  matrix("weight", matrices.weight, {experts, hidden});
  matrix("bias", matrices.bias, {experts});
  matrix("noiseWeight", matrices.noise_weight, {experts, hidden});
  matrix("loraA", matrices.lora_a, {kAny, hidden});
  matrix("loraB", matrices.lora_b, {experts, matrices.lora_a ? matrices.lora_a.dim(0) : kAny});
}

void check(const Route& op) {
  expect("logits", op.logits, DType::float32, {kAny, kAny});
  const int64_t T = op.logits.dim(0), E = op.logits.dim(1), K = op.router.top_k;
  check_router(op.router, T, E);
  const bool noisy = op.router.noise.kind == NoiseKind::noisy_top_k;
  if (op.x) {
    expect_float("x", op.x, {T, kAny});
    expect_float("weight", op.parameters.weight, {E, op.x.dim(1)});
    check_matrices(op.parameters, E, op.x.dim(1));
    require(op.parameters.lora_a.present == op.parameters.lora_b.present, "loraB: expected beside loraA");
  }
  if (noisy) expect("noiseLogits", op.noise_logits, DType::float32, {T, E});
  if (op.given_logits) expect("logits", op.given_logits, DType::float32, {T, E});
  if (op.given_noise_logits) expect("noiseLogits", op.given_noise_logits, DType::float32, {T, E});
  if (op.given_indices) expect("indices", op.given_indices, DType::int32, {T, K});
  require(op.given_indices.present == (op.router.choice == Choice::given),
          "indices: expected where the choice is given");
  if (op.mask) expect("mask", op.mask, DType::int32, {T});
  if (op.selection_bias) expect("selectionBias", op.selection_bias, DType::float32, {E});
  if (op.expert_scale) expect_float("expertScale", op.expert_scale, {E - op.router.identity_experts});
  expect("indices", op.indices, DType::int32, {T, K});
  expect("weights", op.weights, DType::float32, {T, K});
  expect("counts", op.counts, DType::int32, {E});
  if (op.dropped || op.mask || op.router.top_p > 0 || op.router.capacity.rows_per_expert > 0)
    expect("dropped", op.dropped, DType::int32, {T, K});
}

void check(const RouteBackward& op) {
  expect("logits", op.logits, DType::float32, {kAny, kAny});
  const int64_t T = op.logits.dim(0), E = op.logits.dim(1), K = op.router.top_k;
  check_router(op.router, T, E);
  expect("indices", op.indices, DType::int32, {T, K});
  if (op.d_weights) expect("dWeights", op.d_weights, DType::float32, {T, K});
  if (op.extra_d_logits) expect("dLogits", op.extra_d_logits, DType::float32, {T, E});
  expect("dLogits", op.d_logits, DType::float32, {T, E});
  if (op.dropped) expect("dropped", op.dropped, DType::int32, {T, K});
  if (op.mask) expect("mask", op.mask, DType::int32, {T});
  if (op.extra_d_noise_logits) expect("dNoiseLogits", op.extra_d_noise_logits, DType::float32, {T, E});
  if (op.d_noise_logits) {
    expect("noiseLogits", op.noise_logits, DType::float32, {T, E});
    expect("dNoiseLogits", op.d_noise_logits, DType::float32, {T, E});
  }
  const RouterMatrices& into = op.d_parameters;
  if (op.dx) {
    expect_float("weight", op.parameters.weight, {E, kAny});
    expect_float("dx", op.dx, {T, op.parameters.weight.dim(1)});
    check_matrices(op.parameters, E, op.parameters.weight.dim(1));
  }
  if (into.weight || into.noise_weight || into.lora_a || into.lora_b) {
    expect_float("x", op.x, {T, kAny});
    check_matrices(into, E, op.x.dim(1));
  } else if (into.bias) {
    expect_float("dBias", into.bias, {E});
  }
  require((!into.noise_weight && !(op.dx && op.parameters.noise_weight)) || op.d_noise_logits.present,
          "dNoiseLogits: expected where the router has a noise weight");
  if (into.lora_a || into.lora_b)
    require(op.parameters.lora_a.present && op.parameters.lora_b.present, "loraA, loraB: expected both");
  const int64_t computed = E - op.router.identity_experts;
  if (op.expert_scale) expect_float("expertScale", op.expert_scale, {computed});
  if (op.d_expert_scale) expect_float("dExpertScale", op.d_expert_scale, {computed});
}

void check(const RouterLoss& op) {
  expect("logits", op.logits, DType::float32, {kAny, kAny});
  const int64_t T = op.logits.dim(0), E = op.logits.dim(1), K = op.router.top_k;
  check_router(op.router, T, E);
  expect("indices", op.indices, DType::int32, {T, K});
  expect("weights", op.weights, DType::float32, {T, K});
  if (op.dropped) expect("dropped", op.dropped, DType::int32, {T, K});
  if (op.mask) expect("mask", op.mask, DType::int32, {T});
  if (op.expert_scale) expect_float("expertScale", op.expert_scale, {E - op.router.identity_experts});
  require(op.sequence_length >= 0 && (op.sequence_length == 0 || T % op.sequence_length == 0),
          "sequenceLength: expected a divisor of the number of tokens");
  expect("losses", op.losses, DType::float32, {4});
  expect("entropy", op.entropy, DType::float32, {1});
  expect("dLogits", op.d_logits, DType::float32, {T, E});
  if (op.load == 0 && !op.d_noise_logits) return;
  expect("noiseLogits", op.noise_logits, DType::float32, {T, E});
  expect("dNoiseLogits", op.d_noise_logits, DType::float32, {T, E});
}

void check(const UpdateSelectionBias& op) {
  expect("selectionBias", op.selection_bias, DType::float32, {kAny});
  expect("counts", op.counts, DType::int32, {op.selection_bias.dim(0)});
}

void check(const Dispatch& op) {
  expect("indices", op.indices, DType::int32, {kAny, kAny});
  expect("offsets", op.offsets, DType::int32, {kAny});
  require(op.offsets.dim(0) >= 2, "offsets: expected at least one expert");
  expect("rowSlot", op.row_slot, DType::int32, {kAny});
  require(op.rows_per_expert >= 0, "rowsPerExpert: expected a number of rows");
  expect("slotRow", op.slot_row, DType::int32, {op.indices.dim(0), op.indices.dim(1)});
  if (op.dropped) expect("dropped", op.dropped, DType::int32, {op.indices.dim(0), op.indices.dim(1)});
  require(op.identity_experts >= 0, "identityExperts: expected a number of experts");
}

void check(const Gather& op) {
  expect_float("x", op.x, {kAny, kAny});
  expect("rowSlot", op.row_slot, DType::int32, {kAny});
  expect("rows", op.rows, op.x.dtype, {op.row_slot.dim(0), op.x.dim(1)});
}

void check(const Combine& op) {
  expect("slotRow", op.slot_row, DType::int32, {kAny, kAny});
  const int64_t T = op.slot_row.dim(0), K = op.slot_row.dim(1);
  expect_float("rows", op.rows, {kAny, kAny});
  if (op.weights) expect("weights", op.weights, DType::float32, {T, K});
  if (op.x) expect("x", op.x, op.rows.dtype, {T, op.rows.dim(1)});
  expect("y", op.y, op.rows.dtype, {T, op.rows.dim(1)});
}

void check(const CombineBackward& op) {
  expect_float("dy", op.dy, {kAny, kAny});
  const int64_t T = op.dy.dim(0), H = op.dy.dim(1);
  expect("slotRow", op.slot_row, DType::int32, {T, kAny});
  const int64_t K = op.slot_row.dim(1);
  expect("rowSlot", op.row_slot, DType::int32, {kAny});
  const int64_t R = op.row_slot.dim(0);
  if (op.weights) expect("weights", op.weights, DType::float32, {T, K});
  expect("dRows", op.d_rows, op.dy.dtype, {R, H});
  if (op.x) {
    expect("x", op.x, op.dy.dtype, {T, H});
    expect("dx", op.dx, op.dy.dtype, {T, H});
  }
  if (!op.d_weights) return;
  expect("rows", op.rows, op.dy.dtype, {R, H});
  expect("dWeights", op.d_weights, DType::float32, {T, K});
}

// [E, outputs, inputs] of a weight, in the order in which it is stored.
struct WeightShape {
  int64_t experts, outputs, inputs;
  bool transposed;
};

void expect_weight(const char* name, const Tensor& tensor, DType dtype, WeightShape shape) {
  const auto [E, N, C, transposed] = shape;
  transposed ? expect(name, tensor, dtype, {E, C, N}) : expect(name, tensor, dtype, {E, N, C});
}

void check_interleaved(bool interleaved, const ActivationSpec& activation) {
  require(!interleaved || is_gated(activation), "interleaved: expected a gated activation");
}

void check(const GroupedMatmul& op) {
  check_activation(op.activation);
  check_interleaved(op.interleaved, op.activation);
  expect_float("rows", op.rows, {kAny, kAny});
  const int64_t R = op.rows.dim(0);
  expect_weight("weight", op.weight, op.rows.dtype, {kAny, kAny, op.rows.dim(1), op.transposed});
  const int64_t E = op.weight.dim(0), N = op.weight.dim(op.transposed ? 2 : 1);
  require(!is_gated(op.activation) || N % 2 == 0, "weight: expected an even number of output rows");
  expect("offsets", op.offsets, DType::int32, {E + 1});
  if (op.bias) expect_wide("bias", op.bias, op.weight.dtype, {E, N});
  expect("out", op.out, op.rows.dtype, {R, is_gated(op.activation) ? N / 2 : N});
  if (op.pre_activation) expect("preActivation", op.pre_activation, op.rows.dtype, {R, N});
}

void check(const GroupedMatmulDgrad& op) {
  check_activation(op.activation);
  check_interleaved(op.interleaved, op.activation);
  expect_float("dOut", op.d_out, {kAny, kAny});
  const DType dtype = op.d_out.dtype;
  const int64_t R = op.d_out.dim(0);
  expect_weight("weight", op.weight, dtype, {kAny, op.d_out.dim(1), kAny, op.transposed});
  const int64_t C = op.weight.dim(op.transposed ? 1 : 2) * (is_gated(op.activation) ? 2 : 1);
  expect("offsets", op.offsets, DType::int32, {op.weight.dim(0) + 1});
  if (op.activation.function != Activation::identity)
    expect("preActivation", op.pre_activation, dtype, {R, C});
  expect("dRows", op.d_rows, dtype, {R, C});
}

void check(const GroupedMatmulWgrad& op) {
  expect_float("dOut", op.d_out, {kAny, kAny});
  const DType dtype = op.d_out.dtype;
  const int64_t N = op.d_out.dim(1);
  expect("rows", op.rows, dtype, {op.d_out.dim(0), kAny});
  expect("offsets", op.offsets, DType::int32, {kAny});
  const int64_t E = op.offsets.dim(0) - 1;
  require(E >= 1, "offsets: expected at least one group");
  expect_weight("dWeight", op.d_weight, wide(op.d_weight, dtype), {E, N, op.rows.dim(1), op.transposed});
  if (op.d_bias) expect_wide("dBias", op.d_bias, dtype, {E, N});
}

// The parameters of one linear, or their gradients: weights of one dtype, the rest of it or of float32.
class LinearCheck {
 public:
  LinearCheck(const ExpertLinear& linear, int64_t experts, DType dtype)
      : linear_(linear),
        experts_(experts),
        dtype_(dtype),
        name_(std::string("experts.") + kProjectionNames[static_cast<size_t>(linear.projection)]) {}

  void parameters(const LinearParameters<Tensor>& given) const {
    weight(given.weight, dtype_);
    bias(given.bias);
    require(given.lora_a.present == given.lora_b.present, "loraA, loraB: expected both or neither");
    if (given.lora_a) pair(given, kAny);
  }

  // Where there are low-rank pairs, they alone have gradients.
  void gradients(const LinearParameters<Tensor>& given, const LinearParameters<Tensor>& of,
                 bool frozen) const {
    require(!frozen || (!given.weight && !given.bias), "gradients: expected none of frozen parameters");
    if (!frozen) weight(given.weight, wide(given.weight, dtype_));
    if (!frozen) bias(given.bias);
    if (of.lora_a) pair(given, of.lora_a.dim(1));
  }

 private:
  void weight(const Tensor& tensor, DType dtype) const {
    expect_weight(name_.c_str(), tensor, dtype,
                  {experts_, linear_.outputs, linear_.inputs, linear_.transposed});
  }
  void bias(const Tensor& tensor) const {
    if (tensor) expect_wide((name_ + "Bias").c_str(), tensor, dtype_, {experts_, linear_.outputs});
  }
  void pair(const LinearParameters<Tensor>& given, int64_t rank) const {
    expect_wide((name_ + "LoraA").c_str(), given.lora_a, dtype_, {experts_, rank, linear_.inputs});
    rank = given.lora_a.dim(1);
    require(rank >= 1, "loraA: expected a rank of at least 1");
    expect_wide((name_ + "LoraB").c_str(), given.lora_b, dtype_, {experts_, linear_.outputs, rank});
  }

  const ExpertLinear& linear_;
  const int64_t experts_;
  const DType dtype_;
  const std::string name_;
};

std::vector<ExpertLinear> linears_of(const Experts& experts, const ActivationSpec& activation) {
  std::vector<ExpertLinear> linears = up_projections(experts, activation);
  linears.push_back(down_projection(experts));
  return linears;
}

// What both directions share: x, the dispatch, the routing weights and the experts.
template <class Op>
void check_layer(const Op& op) {
  check_activation(op.activation);
  const ExpertTensors& parameters = op.experts.parameters;
  const bool packed = parameters[Projection::gate_up].weight.present;
  require(!op.experts.interleaved || (packed && is_gated(op.activation)),
          "interleaved: expected gateUp and a gated activation");
  expect_float("x", op.x, {kAny, kAny});
  const int64_t T = op.x.dim(0), H = op.x.dim(1);
  expect("slotRow", op.slot_row, DType::int32, {T, kAny});
  expect("rowSlot", op.row_slot, DType::int32, {kAny});
  expect("weights", op.weights, DType::float32, {T, op.slot_row.dim(1)});
  expect_weight("experts.down", parameters[Projection::down].weight, op.x.dtype,
                {kAny, H, kAny, op.experts.transposed});
  const ExpertDims dims = op.experts.dims();
  expect("offsets", op.offsets, DType::int32, {dims.experts + 1});
  for (const ExpertLinear& linear : linears_of(op.experts, op.activation))
    LinearCheck(linear, dims.experts, op.x.dtype).parameters(parameters[linear.projection]);
  const Tensor &gate_bias = parameters[Projection::gate].bias, &up_bias = parameters[Projection::up].bias;
  require(!is_gated(op.activation) || packed ||
              (gate_bias.present == up_bias.present && gate_bias.dtype == up_bias.dtype),
          "experts.gateBias: expected the dtype of upBias, or neither");
  const int64_t width = (is_gated(op.activation) ? 2 : 1) * dims.intermediate;
  if (op.pre_activation) expect("preActivation", op.pre_activation, op.x.dtype, {op.row_slot.dim(0), width});
}

void check(const ExpertsForward& op) {
  check_layer(op);
  expect("y", op.y, op.x.dtype, {op.x.dim(0), op.x.dim(1)});
}

void check(const ExpertsBackward& op) {
  check_layer(op);
  expect("dy", op.dy, op.x.dtype, {op.x.dim(0), op.x.dim(1)});
  expect("dx", op.dx, op.x.dtype, {op.x.dim(0), op.x.dim(1)});
  expect("dWeights", op.d_weights, DType::float32, {op.weights.dim(0), op.weights.dim(1)});
  for (const ExpertLinear& linear : linears_of(op.experts, op.activation)) {
    LinearCheck(linear, op.offsets.dim(0) - 1, op.x.dtype)
        .gradients(op.gradients[linear.projection], op.experts.parameters[linear.projection],
                   op.experts.has_lora());
  }
}

}  // namespace

void validate(const Op& op) {
  std::visit([](const auto& description) { check(description); }, op);
}

const char* name_of(const Op& op) {
  return name_of_op(op.index());
}

const char* name_of_op(size_t alternative) {
  // In the order of the variant's alternatives.
  static constexpr std::array<const char*, std::variant_size_v<Op>> kNames = {"fill",
                                                                              "cast",
                                                                              "route",
                                                                              "routeBackward",
                                                                              "routerLoss",
                                                                              "updateSelectionBias",
                                                                              "dispatch",
                                                                              "gather",
                                                                              "combine",
                                                                              "combineBackward",
                                                                              "groupedMatmul",
                                                                              "groupedMatmulDgrad",
                                                                              "groupedMatmulWgrad",
                                                                              "expertsForward",
                                                                              "expertsBackward"};
  return kNames[alternative];
}

}  // namespace moe
