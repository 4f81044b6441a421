// The grouped products as single ops.
#include <doctest.h>

#include "support/device.h"

namespace moe::test {
namespace {

struct Case {
  const char* name;
  Ints offsets;
  int64_t R, N, C;
};

const Case kCases[] = {
    {"one tile's remainders", {0, 3, 3, 70}, 70, 34, 37},
    {"tiles and their multiples", {0, 64, 192, 192}, 192, 128, 64},
    {"rows of multiples of 16 bytes", {0, 3, 3, 70}, 72, 72, 40},
    {"unused rows", {0, 0, 5, 9}, 20, 66, 130},
    {"no rows", {0, 0, 0}, 0, 8, 8},
    {"one row", {0, 0, 1}, 1, 2, 1},
    {"rows, none of them used", {0, 0, 0}, 5, 6, 3},
};

int64_t groups_of(const Case& c) {
  return static_cast<int64_t>(c.offsets.size()) - 1;
}

ActivationSpec activation(Activation function) {
  const bool clamped = function == Activation::swiglu_clamped;
  return {.function = function,
          .limit = clamped ? 1.5f : 0.0f,
          .alpha = clamped ? 1.702f : 1.0f,
          .up_shift = clamped ? 1.0f : 0.0f};
}

Tensor weight_of(Device& d, DType dtype, const Case& c, bool transposed) {
  const int64_t E = groups_of(c);
  return transposed ? d.random(dtype, {E, c.C, c.N}) : d.random(dtype, {E, c.N, c.C});
}

void forward(const Case& c, DType dtype, Activation function, bool interleaved, bool transposed, DType bias) {
  compare([&](Device& d) {
    const int64_t E = groups_of(c);
    const ActivationSpec spec = activation(function);
    const Tensor offsets = d.ints({E + 1}, c.offsets), rows = d.random(dtype, {c.R, c.C});
    d.run(GroupedMatmul{.activation = spec,
                        .rows = rows,
                        .weight = weight_of(d, dtype, c, transposed),
                        .offsets = offsets,
                        .bias = bias != DType::int32 ? d.random(bias, {E, c.N}) : Tensor{},
                        .interleaved = interleaved,
                        .transposed = transposed,
                        .out = d.out("out", dtype, {c.R, is_gated(spec) ? c.N / 2 : c.N}),
                        .pre_activation = d.out("preActivation", dtype, {c.R, c.N})});
  });
}

}  // namespace

TEST_CASE("forward: shapes, dtypes and layouts") {
  for (const Case& c : kCases) {
    INFO(std::string(c.name));
    for (DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
      for (bool transposed : {false, true}) {
        forward(c, dtype, Activation::identity, false, transposed, dtype);
        forward(c, dtype, Activation::swiglu, false, transposed, DType::float32);
        forward(c, dtype, Activation::swiglu_clamped, true, transposed, DType::int32);
      }
    }
  }
}

TEST_CASE("every activation, forward and backward") {
  const Case c = {"", {0, 2, 10}, 11, 14, 9};
  for (size_t i = 0; i < kActivationNames.size(); ++i) {
    const auto function = static_cast<Activation>(i);
    INFO(std::string(kActivationNames[i]));
    const bool gated = is_gated(activation(function));
    for (bool interleaved : {false, true}) {
      if (interleaved && !gated) continue;
      forward(c, DType::float32, function, interleaved, false, DType::float32);
      compare([&](Device& d) {
        const int64_t columns = gated ? 2 * c.C : c.C;
        d.run(GroupedMatmulDgrad{.activation = activation(function),
                                 .d_out = d.random(DType::float32, {c.R, c.N}),
                                 .weight = weight_of(d, DType::float32, c, false),
                                 .offsets = d.ints({3}, c.offsets),
                                 .pre_activation = d.random(DType::float32, {c.R, columns}),
                                 .interleaved = interleaved,
                                 .d_rows = d.out("dRows", DType::float32, {c.R, columns})});
      });
    }
  }
}

TEST_CASE("dgrad and wgrad") {
  for (const Case& c : kCases) {
    INFO(std::string(c.name));
    for (DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
      for (bool transposed : {false, true}) {
        compare([&](Device& d) {
          const int64_t E = groups_of(c);
          const Tensor offsets = d.ints({E + 1}, c.offsets), d_out = d.random(dtype, {c.R, c.N});
          d.run(GroupedMatmulDgrad{.activation = {},
                                   .d_out = d_out,
                                   .weight = weight_of(d, dtype, c, transposed),
                                   .offsets = offsets,
                                   .transposed = transposed,
                                   .d_rows = d.out("dRows", dtype, {c.R, c.C})});
          const DType gradient = transposed ? DType::float32 : dtype;
          const Shape shape = transposed ? Shape{E, c.C, c.N} : Shape{E, c.N, c.C};
          d.run(GroupedMatmulWgrad{.d_out = d_out,
                                   .rows = d.random(dtype, {c.R, c.C}),
                                   .offsets = offsets,
                                   .d_weight = d.out("dWeight", gradient, shape),
                                   .d_bias = d.sum("dBias", gradient, {E, c.N}),
                                   .transposed = transposed,
                                   .accumulate_d_bias = true});
        });
      }
    }
  }
}

TEST_CASE("offsets that do not ascend within the rows are reported") {
  for (const Ints& offsets : {Ints{0, 3, 2}, Ints{1, 2, 3}, Ints{0, 2, 9}, Ints{0, -5, 3}, Ints{-7, 2, 3}}) {
    const std::string sentence = failure_of([&](Device& d) {
      d.run(GroupedMatmul{.activation = {},
                          .rows = d.random(DType::float32, {4, 3}),
                          .weight = d.random(DType::float32, {2, 5, 3}),
                          .offsets = d.ints({3}, offsets),
                          .out = d.out("out", DType::float32, {4, 5})});
    });
    const std::string expected =
        "ERR_INDEX_RANGE groupedMatmul: offsets: expected values ascending from 0 to at most 4, got ";
    CHECK_EQ(sentence.substr(0, expected.size()), expected);
  }
}

}  // namespace moe::test
