// Storing a tile: a multiple of the sum, the bias and what was there before, in float32 multiply-adds, are
// rounded once to the output's dtype.
#include <optional>

#include "support/expect.h"

namespace moe::test {
namespace {

struct StoreCase {
  DType dtype;
  std::optional<DType> bias;
  bool accumulate;
  float scale;
  int rows, lanes;
  int64_t gap;  // between rows of the output
};

bool stores_exactly(const cpu::Kernels& table, const StoreCase& given, Random& random) {
  const int64_t pitch = cpu::kSlivers * table.width, stride = given.lanes + given.gap;
  const int64_t span = Matrix::span(given.rows, given.lanes, stride);
  Array c(DType::float32, given.rows * pitch, random),
      bias(given.bias.value_or(DType::float32), given.lanes, random);
  Array out(given.dtype, span), want(given.dtype, span);
  for (int64_t row = 0; row < given.rows; ++row) {
    for (int64_t lane = 0; lane < given.lanes; ++lane) {
      const int64_t i = row * stride + lane;
      if (given.accumulate) out.set(i, c[(row * 7 + lane * 3) % c.size()] - 1);
      const auto product = static_cast<float>(c[row * pitch + lane]);
      const float start = given.bias ? static_cast<float>(bias[lane]) : 0.0f;
      float sum = multiply_add(table, given.scale, product, start);
      if (given.accumulate) sum = static_cast<float>(out[i]) + sum;
      want.set(i, sum);
    }
  }
  table.store({.c = c.f32(),
               .rows = given.rows,
               .lanes = given.lanes,
               .scale = given.scale,
               .out = out.at(0),
               .out_stride = stride,
               .dtype = given.dtype,
               .accumulate = given.accumulate,
               .bias = given.bias ? bias.at(0) : nullptr,
               .bias_dtype = bias.dtype()});
  for (int64_t i = 0; i < span; ++i) {
    if (i % stride < given.lanes ? out.bits(i) != want.bits(i) : !out.untouched(i)) return false;
  }
  return out.guard_untouched();
}

void check_lanes(const cpu::Kernels& table, StoreCase given, Random& random) {
  for (int lanes = 1; lanes <= cpu::kSlivers * table.width; ++lanes) {
    for (int rows : {1, 2, table.tile_rows}) {
      CAPTURE(lanes);
      CAPTURE(rows);
      given.rows = rows;
      given.lanes = lanes;
      given.gap = lanes % 3;
      if (!stores_exactly(table, given, random)) FAIL_CHECK("the bits differ");
    }
  }
}

}  // namespace

TEST_SUITE("kernels") {
  TEST_CASE("store multiplies, adds bias and what was there, and rounds once") {
    Random random(3);
    for_each_table([&](const cpu::Kernels& table) {
      for (DType dtype : kFloatDTypes) {
        for (bool accumulate : {false, true}) {
          for (float scale : {1.0f, -0.7f}) {
            INFO("to ", std::string(name_of(dtype)), accumulate ? ", accumulated" : "", ", times ", scale);
            check_lanes(table, {.dtype = dtype, .accumulate = accumulate, .scale = scale}, random);
            for (DType bias : kFloatDTypes) {
              INFO("bias ", std::string(name_of(bias)));
              check_lanes(table, {.dtype = dtype, .bias = bias, .accumulate = accumulate, .scale = scale},
                          random);
            }
          }
        }
      }
    });
  }
}

}  // namespace moe::test
