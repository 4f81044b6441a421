// Activations in the epilogue, forward and backward, against float64: all of them, every dtype, every
// remainder, with and without each optional part.
#include <optional>
#include <vector>

#include "support/activation.h"
#include "support/expect.h"

namespace moe::test {
namespace {

// Extremes, where exponentials overflow and signs of zero differ, among values of unit scale.
constexpr double kExtremes[] = {0.0, -0.0, 20, -20, 60, -60, 1e-3, -8};

// Sums that cancel leave errors of the size of what went in.
constexpr double kUnit = 1;

void fill_with_extremes(Array& array, Random& random) {
  array.fill(random);
  for (int64_t i = 0; i < array.size(); i += 5) array.set(i, kExtremes[i / 5 % std::size(kExtremes)]);
}

// Every activation, and the clamps where they hold often.
struct NamedActivation {
  const char* name;
  ActivationSpec spec;
};

std::vector<NamedActivation> all_activations() {
  std::vector<NamedActivation> all;
  for (size_t i = 0; i < kActivationNames.size(); ++i)
    all.push_back({kActivationNames[i], {.function = static_cast<Activation>(i)}});
  for (NamedActivation& named : all) {
    if (named.spec.function != Activation::swiglu_clamped) continue;
    named.spec.limit = 0.75f;
    named.spec.alpha = 1.702f;
    named.spec.up_shift = 1;
  }
  all.push_back({"swiglu with a limit", {.function = Activation::swiglu, .limit = 1.25f}});
  return all;
}

struct ActivateCase {
  ActivationSpec activation;
  DType dtype;
  std::optional<DType> bias;
  bool with_weights, with_pre, with_out;
  int rows, lanes;

  bool gated() const { return is_gated(activation); }
};

// The tile's output, gate half and up half are matrices of their own with gaps between rows.
void check_activate(const cpu::Kernels& table, const ActivateCase& given, Random& random) {
  const int64_t pitch = cpu::kSlivers * table.width, stride = given.lanes + 3;
  const int64_t span = Matrix::span(given.rows, given.lanes, stride);
  Array c(DType::float32, given.rows * pitch);
  fill_with_extremes(c, random);
  const DType bias_dtype = given.bias.value_or(DType::float32);
  Array weights(DType::float32, given.rows, random);
  Array gate_bias(bias_dtype, given.lanes, random), up_bias(bias_dtype, given.lanes, random);
  Array gate_pre(given.dtype, span), up_pre(given.dtype, span), out(given.dtype, span);
  table.activate({.activation = given.activation,
                  .c = c.f32(),
                  .rows = given.rows,
                  .lanes = given.lanes,
                  .row_weights = given.with_weights ? weights.f32() : nullptr,
                  .gate_bias = given.bias && given.gated() ? gate_bias.at(0) : nullptr,
                  .up_bias = given.bias ? up_bias.at(0) : nullptr,
                  .bias_dtype = bias_dtype,
                  .gate_pre = given.with_pre && given.gated() ? gate_pre.at(0) : nullptr,
                  .up_pre = given.with_pre ? up_pre.at(0) : nullptr,
                  .pre_stride = stride,
                  .out = given.with_out ? out.at(0) : nullptr,
                  .out_stride = stride,
                  .dtype = given.dtype});
  const auto weight = [&](int64_t row) { return given.with_weights ? weights[row] : 1.0; };
  const auto up = [&](int64_t row, int64_t lane) {
    const int64_t first = given.gated() ? table.width : 0;
    return weight(row) * c[row * pitch + first + lane] + (given.bias ? up_bias[lane] : 0);
  };
  const auto gate = [&](int64_t row, int64_t lane) {
    return weight(row) * c[row * pitch + lane] + (given.bias ? gate_bias[lane] : 0);
  };
  const auto activated = [&](int64_t row, int64_t lane) {
    if (!given.gated()) return activation_at(given.activation, up(row, lane)).value;
    return activation_at(given.activation, gate(row, lane)).value *
           up_at(given.activation, up(row, lane)).value;
  };
  const auto matrix = [&](Array& array, bool written) {
    return Matrix{array, written ? given.rows : 0, written ? given.lanes : 0, stride};
  };
  const double bound = bound_of(given.dtype);
  check_close(matrix(gate_pre, given.with_pre && given.gated()), gate, bound, kUnit);
  check_close(matrix(up_pre, given.with_pre), up, bound, kUnit);
  check_close(matrix(out, given.with_out), activated, bound, kUnit);
}

struct BackwardCase {
  ActivationSpec activation;
  DType dtype;
  bool with_weights, with_weighted, with_dot;
  int rows, lanes;

  bool gated() const { return is_gated(activation); }
};

struct BackwardArrays {
  BackwardArrays(const BackwardCase& given, int64_t pitch, Random& random)
      : stride(given.lanes + 2),
        span(Matrix::span(given.rows, given.lanes, stride)),
        c(DType::float32, given.rows * pitch, random),
        weights(DType::float32, given.rows, random),
        gate(given.dtype, span),
        up(given.dtype, span, random),
        d_gate(given.dtype, span),
        d_up(given.dtype, span),
        weighted(given.dtype, span),
        dot(DType::float32, Matrix::span(given.rows, 1, kDotStride)) {
    fill_with_extremes(given.gated() ? gate : up, random);
  }

  static constexpr int64_t kDotStride = 3;
  int64_t stride, span;
  Array c, weights, gate, up, d_gate, d_up, weighted, dot;
};

void run_backward(const cpu::Kernels& table, const BackwardCase& given, BackwardArrays& arrays) {
  table.activate_backward({.activation = given.activation,
                           .c = arrays.c.f32(),
                           .rows = given.rows,
                           .lanes = given.lanes,
                           .row_weights = given.with_weights ? arrays.weights.f32() : nullptr,
                           .gate_pre = given.gated() ? arrays.gate.at(0) : nullptr,
                           .up_pre = arrays.up.at(0),
                           .pre_stride = arrays.stride,
                           .gate_d_pre = given.gated() ? arrays.d_gate.at(0) : nullptr,
                           .up_d_pre = arrays.d_up.at(0),
                           .weighted = given.with_weighted ? arrays.weighted.at(0) : nullptr,
                           .weighted_stride = arrays.stride,
                           .dot = given.with_dot ? arrays.dot.f32() : nullptr,
                           .dot_stride = BackwardArrays::kDotStride,
                           .dtype = given.dtype});
}

// Terms of a dot product cancel: the bound is on the sum of their sizes.
template <class Activated>
void check_dots(const BackwardCase& given, BackwardArrays& arrays, int64_t pitch, Activated activated) {
  const int64_t rows = given.with_dot ? given.rows : 0;
  for (int64_t row = 0; row < rows; ++row) {
    double sum = 0, scale = 0;
    for (int64_t lane = 0; lane < given.lanes; ++lane) {
      const double term = arrays.c[row * pitch + lane] * activated(row, lane);
      sum += term;
      scale += std::fabs(term);
    }
    CHECK(std::fabs(arrays.dot[row * BackwardArrays::kDotStride] - sum) <= bound_of(DType::float32) * scale);
  }
  CHECK_EQ(written_outside({arrays.dot, rows, rows > 0 ? 1 : 0, BackwardArrays::kDotStride}), "");
}

void check_backward(const cpu::Kernels& table, const BackwardCase& given, Random& random) {
  const int64_t pitch = cpu::kSlivers * table.width;
  BackwardArrays arrays(given, pitch, random);
  run_backward(table, given, arrays);
  const Array& argument = given.gated() ? arrays.gate : arrays.up;
  const auto slope = [&](int64_t row, int64_t lane) {
    return activation_at(given.activation, argument[row * arrays.stride + lane]);
  };
  const auto up = [&](int64_t row, int64_t lane) {
    return given.gated() ? up_at(given.activation, arrays.up[row * arrays.stride + lane]) : Slope{1, 0};
  };
  const auto weight = [&](int64_t row) { return given.with_weights ? arrays.weights[row] : 1.0; };
  const auto gradient = [&](int64_t row, int64_t lane) { return weight(row) * arrays.c[row * pitch + lane]; };
  const auto activated = [&](int64_t row, int64_t lane) {
    return slope(row, lane).value * up(row, lane).value;
  };
  const auto d_argument = [&](int64_t row, int64_t lane) {
    return gradient(row, lane) * up(row, lane).value * slope(row, lane).derivative;
  };
  const auto d_up = [&](int64_t row, int64_t lane) {
    return gradient(row, lane) * slope(row, lane).value * up(row, lane).derivative;
  };
  const auto weighted = [&](int64_t row, int64_t lane) { return weight(row) * activated(row, lane); };
  const auto matrix = [&](Array& array, bool written) {
    return Matrix{array, written ? given.rows : 0, written ? given.lanes : 0, arrays.stride};
  };
  const double bound = bound_of(given.dtype);
  check_close(matrix(given.gated() ? arrays.d_gate : arrays.d_up, true), d_argument, bound, kUnit);
  check_close(matrix(given.gated() ? arrays.d_up : arrays.d_gate, given.gated()), d_up, bound, kUnit);
  check_close(matrix(arrays.weighted, given.with_weighted), weighted, bound, kUnit);
  check_dots(given, arrays, pitch, activated);
}

template <class Body>
void for_each_activation(Body body) {
  for_each_table([&](const cpu::Kernels& table) {
    for (const NamedActivation& named : all_activations()) {
      for (DType dtype : kFloatDTypes) {
        INFO(std::string(named.name), " ", std::string(name_of(dtype)));
        body(table, named.spec, dtype);
      }
    }
  });
}

}  // namespace

TEST_SUITE("kernels") {
  TEST_CASE("activations agree with float64") {
    Random random(4);
    for_each_activation([&](const cpu::Kernels& table, const ActivationSpec& activation, DType dtype) {
      const int most = is_gated(activation) ? table.width : cpu::kSlivers * table.width;
      for (int lanes = 1; lanes <= most; ++lanes) {
        for (int parts = 0; parts < 16; ++parts) {
          // Any of the three dtypes of bias, so that each meets every remainder.
          const DType bias = kFloatDTypes.begin()[lanes % 3];
          CAPTURE(lanes);
          CAPTURE(parts);
          check_activate(table,
                         {.activation = activation,
                          .dtype = dtype,
                          .bias = (parts & 1) != 0 ? std::optional(bias) : std::nullopt,
                          .with_weights = (parts & 2) != 0,
                          .with_pre = (parts & 4) != 0,
                          .with_out = (parts & 8) != 0,
                          .rows = lanes % 2 == 0 ? table.tile_rows : 2,
                          .lanes = lanes},
                         random);
        }
      }
    });
  }

  TEST_CASE("gradients of activations agree with float64") {
    Random random(5);
    for_each_activation([&](const cpu::Kernels& table, const ActivationSpec& activation, DType dtype) {
      for (int lanes = 1; lanes <= cpu::kSlivers * table.width; ++lanes) {
        for (int parts = 0; parts < 8; ++parts) {
          CAPTURE(lanes);
          CAPTURE(parts);
          check_backward(table,
                         {.activation = activation,
                          .dtype = dtype,
                          .with_weights = (parts & 1) != 0,
                          .with_weighted = (parts & 2) != 0,
                          .with_dot = (parts & 4) != 0,
                          .rows = lanes % 2 == 0 ? table.tile_rows : 2,
                          .lanes = lanes},
                         random);
        }
      }
    });
  }

  TEST_CASE("activations pass NaN on") {
    for_each_activation([](const cpu::Kernels& table, const ActivationSpec& activation, DType dtype) {
      Array c(DType::float32, int64_t{cpu::kSlivers} * table.width), out(dtype, table.width);
      for (int64_t i = 0; i < c.size(); ++i) c.set(i, i % table.width == 1 ? NAN : 1);
      table.activate({.activation = activation,
                      .c = c.f32(),
                      .rows = 1,
                      .lanes = table.width,
                      .out = out.at(0),
                      .out_stride = table.width,
                      .dtype = dtype});
      for (int64_t i = 0; i < table.width; ++i) CHECK_EQ(std::isnan(out[i]), i == 1);
    });
  }
}

}  // namespace moe::test
