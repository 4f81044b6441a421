// Whole experts, forward and backward, in every layout and with low-rank pairs.
#include <doctest.h>

#include "ops/router.h"
#include "support/device.h"

namespace moe::test {
namespace {

struct Case {
  const char* name;
  DType dtype = DType::float32;
  int64_t T = 29, H = 36, I = 44, E = 5, K = 2;
  Activation activation = Activation::swiglu;
  bool packed = true, interleaved = false, transposed = false;
  // None where it is an integer type.
  DType bias = DType::int32, lora = DType::int32;
  bool weight_on_input = false, accumulate = false, recompute = false;
  int identity = 0;
  bool dropped = false;
  int64_t hot = -1;               // the expert of every slot
  DType gradient = DType::int32;  // that of the parameters, unless an integer type
  int64_t rank = 3;               // of low-rank pairs
};

const Case kCases[] = {
    {.name = "packed"},
    {.name = "separate, biases", .packed = false, .bias = DType::float32},
    {.name = "interleaved, biases", .interleaved = true, .bias = DType::float32, .accumulate = true},
    {.name = "transposed", .transposed = true, .bias = DType::float32, .recompute = true},
    {.name = "transposed, interleaved", .interleaved = true, .transposed = true, .recompute = true},
    {.name = "ungated", .activation = Activation::relu2, .bias = DType::float32},
    {.name = "clamped",
     .activation = Activation::swiglu_clamped,
     .interleaved = true,
     .bias = DType::float32},
    {.name = "weight on the input", .bias = DType::float32, .weight_on_input = true},
    {.name = "weight on the input, separate, low rank",
     .packed = false,
     .lora = DType::float32,
     .weight_on_input = true},
    {.name = "low rank, packed", .bias = DType::float32, .lora = DType::float32, .recompute = true},
    {.name = "low rank, separate", .packed = false, .lora = DType::float32, .accumulate = true},
    {.name = "low rank, interleaved, transposed",
     .interleaved = true,
     .transposed = true,
     .lora = DType::float32},
    {.name = "identity experts and dropped slots", .accumulate = true, .identity = 2, .dropped = true},
    {.name = "identity experts, weight on the input",
     .weight_on_input = true,
     .identity = 2,
     .dropped = true},
    {.name = "all on one", .T = 150, .K = 1, .hot = 3},
    {.name = "no token", .T = 0, .bias = DType::float32},
    {.name = "one token, all experts", .T = 1, .E = 4, .K = 4},
    {.name = "wider than a tile", .T = 70, .H = 132, .I = 131, .bias = DType::float32},
    {.name = "bfloat16", .dtype = DType::bfloat16, .bias = DType::bfloat16},
    {.name = "bfloat16, wide biases and gradients",
     .dtype = DType::bfloat16,
     .T = 90,
     .H = 70,
     .I = 66,
     .packed = false,
     .bias = DType::float32,
     .accumulate = true,
     .gradient = DType::float32},
    {.name = "bfloat16, transposed, low rank in float32",
     .dtype = DType::bfloat16,
     .transposed = true,
     .lora = DType::float32},
    {.name = "bfloat16, weight on the input, low rank",
     .dtype = DType::bfloat16,
     .lora = DType::bfloat16,
     .weight_on_input = true},
    {.name = "float16, interleaved",
     .dtype = DType::float16,
     .interleaved = true,
     .bias = DType::float16,
     .recompute = true},
    {.name = "float16, odd widths",
     .dtype = DType::float16,
     .T = 66,
     .H = 67,
     .I = 33,
     .identity = 1,
     .dropped = true},
    // Rows of multiples of 16 bytes: what tensor maps copy.
    {.name = "bfloat16, aligned", .dtype = DType::bfloat16, .T = 90, .H = 72, .I = 136},
    {.name = "bfloat16, aligned, separate, low rank",
     .dtype = DType::bfloat16,
     .T = 40,
     .H = 136,
     .I = 72,
     .packed = false,
     .bias = DType::bfloat16,
     .lora = DType::bfloat16,
     .accumulate = true,
     .rank = 8},
    {.name = "bfloat16, aligned, packed, low rank",
     .dtype = DType::bfloat16,
     .T = 40,
     .H = 72,
     .I = 72,
     .lora = DType::bfloat16,
     .recompute = true,
     .rank = 16},
    {.name = "float16, aligned, transposed",
     .dtype = DType::float16,
     .T = 70,
     .H = 72,
     .I = 80,
     .transposed = true,
     .bias = DType::float32,
     .identity = 1,
     .dropped = true},
    {.name = "float16, aligned, transposed, interleaved, low rank",
     .dtype = DType::float16,
     .T = 30,
     .H = 80,
     .I = 72,
     .interleaved = true,
     .transposed = true,
     .lora = DType::float16,
     .rank = 8},
    {.name = "bfloat16, aligned, ungated, all on one",
     .dtype = DType::bfloat16,
     .T = 150,
     .H = 64,
     .I = 64,
     .K = 1,
     .activation = Activation::relu2,
     .bias = DType::float32,
     .hot = 3},
    {.name = "bfloat16, aligned, no token", .dtype = DType::bfloat16, .T = 0, .H = 64, .I = 64},
};

struct Permutation {
  Tensor offsets, row_slot, slot_row;
};

Permutation dispatch(Device& d, const Case& c) {
  Ints indices, fates;
  for (int64_t t = 0; t < c.T; ++t) {
    for (int64_t k = 0; k < c.K; ++k) {
      const int64_t all = c.E + c.identity,
                    expert = c.hot >= 0 ? c.hot : (t * t + t / 3 + k * (1 + t % 2)) % all;
      indices.push_back(static_cast<int32_t>(expert));
      fates.push_back((t + 3 * k) % 5 == 0 ? static_cast<int32_t>(t % 4) : 0);
    }
  }
  const int64_t R = c.T * c.K;
  const Permutation p = {d.out("offsets", DType::int32, {c.E + 1}), d.out("rowSlot", DType::int32, {R}),
                         d.out("slotRow", DType::int32, {c.T, c.K})};
  d.run(Dispatch{.indices = d.ints({c.T, c.K}, indices),
                 .dropped = c.dropped ? d.ints({c.T, c.K}, fates) : Tensor{},
                 .identity_experts = c.identity,
                 .offsets = p.offsets,
                 .row_slot = p.row_slot,
                 .slot_row = p.slot_row});
  return p;
}

ActivationSpec spec_of(const Case& c) {
  const bool clamped = c.activation == Activation::swiglu_clamped;
  return {.function = c.activation,
          .limit = clamped ? 2.0f : 0.0f,
          .alpha = clamped ? 1.702f : 1.0f,
          .up_shift = clamped ? 1.0f : 0.0f};
}

// Calls make(name, parameter, shape, dtype) for every parameter of a case's experts.
template <class Make>
void each_parameter(const Case& c, Make make) {
  const auto linear = [&](Projection p, int64_t outputs, int64_t inputs) {
    const std::string name = kProjectionNames[static_cast<size_t>(p)];
    const Shape weight = c.transposed ? Shape{c.E, inputs, outputs} : Shape{c.E, outputs, inputs};
    make(name, p, &LinearParameters<Tensor>::weight, weight, c.dtype);
    if (is_float(c.bias))
      make(name + "Bias", p, &LinearParameters<Tensor>::bias, Shape{c.E, outputs}, c.bias);
    if (!is_float(c.lora)) return;
    make(name + "LoraA", p, &LinearParameters<Tensor>::lora_a, Shape{c.E, c.rank, inputs}, c.lora);
    make(name + "LoraB", p, &LinearParameters<Tensor>::lora_b, Shape{c.E, outputs, c.rank}, c.lora);
  };
  const bool gated = is_gated(spec_of(c));
  if (gated && c.packed) linear(Projection::gate_up, 2 * c.I, c.H);
  if (gated && !c.packed) linear(Projection::gate, c.I, c.H);
  if (!gated || !c.packed) linear(Projection::up, c.I, c.H);
  linear(Projection::down, c.H, c.I);
}

Experts experts_of(Device& d, const Case& c) {
  Experts experts = {.interleaved = c.interleaved, .transposed = c.transposed, .lora_scale = 0.5f};
  each_parameter(c, [&](const std::string&, Projection p, auto member, const Shape& shape, DType dtype) {
    experts.parameters[p].*member = d.random(dtype, shape);
  });
  return experts;
}

struct Gradients {
  ExpertTensors tensors;
  ExpertFlags accumulate;
};

Gradients gradients_of(Device& d, const Case& c, const Experts& experts) {
  Gradients gradients;
  each_parameter(c, [&](const std::string& name, Projection p, auto member, const Shape& shape, DType dtype) {
    const bool low_rank =
        member == &LinearParameters<Tensor>::lora_a || member == &LinearParameters<Tensor>::lora_b;
    if (experts.has_lora() != low_rank) return;
    const DType as = is_float(c.gradient) ? c.gradient : dtype;
    gradients.tensors[p].*member =
        c.accumulate ? d.sum("d." + name, as, shape) : d.out("d." + name, as, shape);
  });
  if (!c.accumulate) return gradients;
  for (Projection p : kProjections) gradients.accumulate[p] = {true, true, true, true};
  return gradients;
}

void run_case(Device& d, const Case& c) {
  const Permutation p = dispatch(d, c);
  const Experts experts = experts_of(d, c);
  const Tensor x = d.random(c.dtype, {c.T, c.H}), dy = d.random(c.dtype, {c.T, c.H});
  const Tensor weights = d.random(DType::float32, {c.T, c.K});
  const auto out = [&](const char* name) {
    return c.accumulate ? d.sum(name, c.dtype, {c.T, c.H}) : d.out(name, c.dtype, {c.T, c.H});
  };
  const int64_t width = is_gated(spec_of(c)) ? 2 * c.I : c.I;
  const Tensor pre_activation = c.recompute ? Tensor{} : d.out("preActivation", c.dtype, {c.T * c.K, width});
  d.run(ExpertsForward{.activation = spec_of(c),
                       .x = x,
                       .offsets = p.offsets,
                       .row_slot = p.row_slot,
                       .slot_row = p.slot_row,
                       .weights = weights,
                       .experts = experts,
                       .weight_on_input = c.weight_on_input,
                       .y = out("y"),
                       .accumulate_y = c.accumulate,
                       .pre_activation = pre_activation});
  const Gradients gradients = gradients_of(d, c, experts);
  d.run(ExpertsBackward{.activation = spec_of(c),
                        .dy = dy,
                        .x = x,
                        .offsets = p.offsets,
                        .row_slot = p.row_slot,
                        .slot_row = p.slot_row,
                        .weights = weights,
                        .experts = experts,
                        .weight_on_input = c.weight_on_input,
                        .pre_activation = pre_activation,
                        .dx = out("dx"),
                        .accumulate_dx = c.accumulate,
                        .d_weights = d.out("dWeights", DType::float32, {c.T, c.K}, Match::near, c.dtype),
                        .gradients = gradients.tensors,
                        .accumulate = gradients.accumulate});
}

}  // namespace

TEST_CASE("experts, forward and backward") {
  for (const Case& c : kCases) {
    INFO(std::string(c.name));
    compare([&](Device& d) { run_case(d, c); });
  }
}

TEST_CASE("a dispatch that is out of range is reported, and nothing touched there") {
  const auto failure = [](const Ints& offsets, const Ints& row_slot, const Ints& slot_row) {
    return failure_of([&](Device& d) {
      const Case c = {.name = "", .T = 2, .E = 2};
      d.run(ExpertsForward{.activation = spec_of(c),
                           .x = d.random(DType::float32, {c.T, c.H}),
                           .offsets = d.ints({3}, offsets),
                           .row_slot = d.ints({4}, row_slot),
                           .slot_row = d.ints({2, 2}, slot_row),
                           .weights = d.random(DType::float32, {2, 2}),
                           .experts = experts_of(d, c),
                           .weight_on_input = true,
                           .y = d.out("y", DType::float32, {c.T, c.H})});
    });
  };
  const Ints slots = {0, 1, 2, 3};
  CHECK_EQ(failure({0, 2, 4}, slots, slots), "");
  CHECK_EQ(failure({0, 2, 5}, slots, slots),
           "ERR_INDEX_RANGE expertsForward: offsets: expected values ascending from 0 to at most 4, got 5");
  CHECK_EQ(failure({0, 2, 4}, {0, 1, 2, 4}, slots),
           "ERR_INDEX_RANGE expertsForward: rowSlot: expected values from 0 to 3, got 4");
  CHECK_EQ(failure({0, 2, 4}, {0, -1, 2, 3}, slots),
           "ERR_INDEX_RANGE expertsForward: rowSlot: expected values from 0 to 3, got -1");
  CHECK_EQ(failure({0, 2, 3}, slots, {0, 1, 2, 3}),
           "ERR_INDEX_RANGE expertsForward: slotRow: expected values from -2 to 2, got 3");
  CHECK_EQ(failure({0, 2, 4}, slots, {0, -3, 2, 3}),
           "ERR_INDEX_RANGE expertsForward: slotRow: expected values from -2 to 3, got -3");
}

}  // namespace moe::test
