// Activations in the epilogue, forward and backward, against float64: all of them, every dtype, every
// remainder, gate and up apart or alternating, with and without each optional part.
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

// Rows of gate and up columns: matrices of their own with gaps between rows, or alternating in one. Where
// there is no gate, its matrix is there to stay untouched.
class GateUp {
 public:
  GateUp(DType dtype, int64_t rows, int64_t lanes, bool interleaved)
      : interleaved_(interleaved),
        rows_(rows),
        columns_(lanes * (interleaved ? 2 : 1)),
        gate_(dtype, Matrix::span(rows, columns_, stride())),
        up_(dtype, Matrix::span(interleaved ? 0 : rows, columns_, stride())) {}

  GateUp& fill(Random& random, bool extremes_in_gate) {
    gate_.fill(random);
    up_.fill(random);
    fill_with_extremes(extremes_in_gate ? gate_ : up_, random);
    return *this;
  }

  int64_t stride() const { return columns_ + 3; }
  void* gate() { return gate_.at(0); }
  void* up() { return interleaved_ ? gate_.at(1) : up_.at(0); }
  double gate_at(int64_t row, int64_t lane) const {
    return gate_[row * stride() + (interleaved_ ? 2 * lane : lane)];
  }
  double up_at(int64_t row, int64_t lane) const {
    return interleaved_ ? gate_[row * stride() + 2 * lane + 1] : up_[row * stride() + lane];
  }

  // Only what was to be written was, and as gate(row, lane) and up(row, lane) say.
  template <class Gate, class Up>
  void check(bool gate_written, bool up_written, Gate gate, Up up, double bound) {
    const auto matrix = [&](Array& array, bool written) {
      return Matrix{array, written ? rows_ : 0, written ? columns_ : 0, stride()};
    };
    if (interleaved_) {
      const auto pair = [&](int64_t row, int64_t column) {
        return column % 2 == 0 ? gate(row, column / 2) : up(row, column / 2);
      };
      return check_close(matrix(gate_, up_written), pair, bound, kUnit);
    }
    check_close(matrix(gate_, gate_written), gate, bound, kUnit);
    check_close(matrix(up_, up_written), up, bound, kUnit);
  }

 private:
  bool interleaved_;
  int64_t rows_, columns_;
  Array gate_, up_;
};

struct ActivateCase {
  ActivationSpec activation;
  bool interleaved;
  DType dtype;
  std::optional<DType> bias;
  bool with_weights, with_pre, with_out;
  int rows, lanes;

  bool gated() const { return is_gated(activation); }
};

void check_activate(const cpu::Kernels& table, const ActivateCase& given, Random& random) {
  const int64_t pitch = cpu::kSlivers * table.width, out_stride = given.lanes + 3;
  Array c(DType::float32, given.rows * pitch);
  fill_with_extremes(c, random);
  const DType bias_dtype = given.bias.value_or(DType::float32);
  Array weights(DType::float32, given.rows, random);
  GateUp bias(bias_dtype, 1, given.lanes, given.interleaved);
  bias.fill(random, true);
  GateUp pre(given.dtype, given.rows, given.lanes, given.interleaved);
  Array out(given.dtype, Matrix::span(given.rows, given.lanes, out_stride));
  table.activate({.activation = given.activation,
                  .interleaved = given.interleaved,
                  .c = c.f32(),
                  .rows = given.rows,
                  .lanes = given.lanes,
                  .row_weights = given.with_weights ? weights.f32() : nullptr,
                  .gate_bias = given.bias && given.gated() ? bias.gate() : nullptr,
                  .up_bias = given.bias ? bias.up() : nullptr,
                  .bias_dtype = bias_dtype,
                  .gate_pre = given.with_pre && given.gated() ? pre.gate() : nullptr,
                  .up_pre = given.with_pre ? pre.up() : nullptr,
                  .pre_stride = pre.stride(),
                  .out = given.with_out ? out.at(0) : nullptr,
                  .out_stride = out_stride,
                  .dtype = given.dtype});
  const auto weighted_sum = [&](int64_t row, int64_t lane) {
    return (given.with_weights ? weights[row] : 1.0) * c[row * pitch + lane];
  };
  const auto gate = [&](int64_t row, int64_t lane) {
    return weighted_sum(row, given.interleaved ? 2 * lane : lane) + (given.bias ? bias.gate_at(0, lane) : 0);
  };
  const auto up = [&](int64_t row, int64_t lane) {
    const int64_t at = given.interleaved ? 2 * lane + 1 : given.gated() ? table.width + lane : lane;
    return weighted_sum(row, at) + (given.bias ? bias.up_at(0, lane) : 0);
  };
  const auto activated = [&](int64_t row, int64_t lane) {
    if (!given.gated()) return activation_at(given.activation, up(row, lane)).value;
    return activation_at(given.activation, gate(row, lane)).value *
           up_at(given.activation, up(row, lane)).value;
  };
  const double bound = bound_of(given.dtype);
  pre.check(given.with_pre && given.gated(), given.with_pre, gate, up, bound);
  const Matrix outputs = {out, given.with_out ? given.rows : 0, given.with_out ? given.lanes : 0, out_stride};
  check_close(outputs, activated, bound, kUnit);
}

struct BackwardCase {
  ActivationSpec activation;
  bool interleaved;
  DType dtype;
  bool with_weights, with_weighted, with_dot;
  int rows, lanes;

  bool gated() const { return is_gated(activation); }
};

struct BackwardArrays {
  BackwardArrays(const BackwardCase& given, int64_t pitch, Random& random)
      : c(DType::float32, given.rows * pitch, random),
        weights(DType::float32, given.rows, random),
        pre(given.dtype, given.rows, given.lanes, given.interleaved),
        d_pre(given.dtype, given.rows, given.lanes, given.interleaved),
        weighted_stride(given.lanes + 2),
        weighted(given.dtype, Matrix::span(given.rows, given.lanes, weighted_stride)),
        dot(DType::float32, Matrix::span(given.rows, 1, kDotStride)) {
    pre.fill(random, given.gated());
  }

  static constexpr int64_t kDotStride = 3;
  Array c, weights;
  GateUp pre, d_pre;
  int64_t weighted_stride;
  Array weighted, dot;
};

void run_backward(const cpu::Kernels& table, const BackwardCase& given, BackwardArrays& arrays) {
  table.activate_backward({.activation = given.activation,
                           .interleaved = given.interleaved,
                           .c = arrays.c.f32(),
                           .rows = given.rows,
                           .lanes = given.lanes,
                           .row_weights = given.with_weights ? arrays.weights.f32() : nullptr,
                           .gate_pre = given.gated() ? arrays.pre.gate() : nullptr,
                           .up_pre = arrays.pre.up(),
                           .pre_stride = arrays.pre.stride(),
                           .gate_d_pre = given.gated() ? arrays.d_pre.gate() : nullptr,
                           .up_d_pre = arrays.d_pre.up(),
                           .weighted = given.with_weighted ? arrays.weighted.at(0) : nullptr,
                           .weighted_stride = arrays.weighted_stride,
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
  const GateUp& pre = arrays.pre;
  const auto slope = [&](int64_t row, int64_t lane) {
    return activation_at(given.activation, given.gated() ? pre.gate_at(row, lane) : pre.up_at(row, lane));
  };
  const auto up = [&](int64_t row, int64_t lane) {
    return given.gated() ? up_at(given.activation, pre.up_at(row, lane)) : Slope{1, 0};
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
    if (!given.gated()) return d_argument(row, lane);
    return gradient(row, lane) * slope(row, lane).value * up(row, lane).derivative;
  };
  const auto weighted = [&](int64_t row, int64_t lane) { return weight(row) * activated(row, lane); };
  const double bound = bound_of(given.dtype);
  arrays.d_pre.check(given.gated(), true, d_argument, d_up, bound);
  const int64_t rows = given.with_weighted ? given.rows : 0, columns = given.with_weighted ? given.lanes : 0;
  check_close({arrays.weighted, rows, columns, arrays.weighted_stride}, weighted, bound, kUnit);
  check_dots(given, arrays, pitch, activated);
}

// `body` takes the table, the activation, whether gate and up alternate, and the dtype.
template <class Body>
void for_each_activation(Body body) {
  for_each_table([&](const cpu::Kernels& table) {
    for (const NamedActivation& named : all_activations()) {
      for (DType dtype : kFloatDTypes) {
        INFO(std::string(named.name), " ", std::string(name_of(dtype)));
        body(table, named.spec, false, dtype);
        INFO("interleaved");
        if (is_gated(named.spec)) body(table, named.spec, true, dtype);
      }
    }
  });
}

}  // namespace

TEST_SUITE("kernels") {
  TEST_CASE("activations agree with float64") {
    Random random(4);
    for_each_activation(
        [&](const cpu::Kernels& table, const ActivationSpec& activation, bool interleaved, DType dtype) {
          const int most = is_gated(activation) ? table.width : cpu::kSlivers * table.width;
          for (int lanes = 1; lanes <= most; ++lanes) {
            for (int parts = 0; parts < 16; ++parts) {
              // Any of the three dtypes of bias, so that each meets every remainder.
              const DType bias = kFloatDTypes.begin()[lanes % 3];
              CAPTURE(lanes);
              CAPTURE(parts);
              check_activate(table,
                             {.activation = activation,
                              .interleaved = interleaved,
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
    for_each_activation(
        [&](const cpu::Kernels& table, const ActivationSpec& activation, bool interleaved, DType dtype) {
          for (int lanes = 1; lanes <= cpu::kSlivers * table.width; ++lanes) {
            for (int parts = 0; parts < 8; ++parts) {
              CAPTURE(lanes);
              CAPTURE(parts);
              check_backward(table,
                             {.activation = activation,
                              .interleaved = interleaved,
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
    for_each_activation(
        [](const cpu::Kernels& table, const ActivationSpec& activation, bool interleaved, DType dtype) {
          Array c(DType::float32, int64_t{cpu::kSlivers} * table.width), out(dtype, table.width);
          for (int64_t i = 0; i < c.size(); ++i)
            c.set(i, (interleaved ? i / 2 : i % table.width) == 1 ? NAN : 1);
          table.activate({.activation = activation,
                          .interleaved = interleaved,
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
