// Every tile size and arithmetic of the grouped product, with each layout of its operands and a remainder in
// each dimension; and how they are chosen.
#include <doctest.h>

#include <cmath>

#include "cuda/gemm_config.h"
#include "ops/precision.h"
#include "simt/control.h"
#include "support/device.h"

namespace moe::test {
namespace {

using cuda::GemmShape, cuda::TileSize;

struct Case {
  TileSize size;
  Ints offsets;
  int64_t R, N, C;  // N of each of gate and up
};

// On the emulated device, which has 4 multiprocessors.
const Case kCases[] = {
    {TileSize::narrow, {0, 1, 1, 6}, 7, 44, 146},
    {TileSize::flat, {0, 3, 3, 20, 21}, 23, 300, 146},
    {TileSize::small, {0, 17, 17, 90}, 90, 152, 146},
    {TileSize::large, {0, 3, 3, 205}, 206, 300, 146},
};
constexpr DType kDTypes[] = {DType::float32, DType::bfloat16, DType::float16};

// Sets how float32 is multiplied for as long as it lives.
class Float32Setting {
 public:
  explicit Float32Setting(Float32Matmul setting) { float32_matmul() = setting; }
  ~Float32Setting() { float32_matmul() = Float32Matmul::float32; }
  Float32Setting(const Float32Setting&) = delete;
  Float32Setting& operator=(const Float32Setting&) = delete;
};

// A device before 9.0 for as long as it lives: what is aligned goes this way there, too.
class OlderDevice {
 public:
  OlderDevice() { simt::settings().compute_capability = 80; }
  ~OlderDevice() { simt::settings().compute_capability = before_; }
  OlderDevice(const OlderDevice&) = delete;
  OlderDevice& operator=(const OlderDevice&) = delete;

 private:
  int before_ = simt::settings().compute_capability;
};

cuda::DeviceLimits device(int multiprocessors) {
  return {.multiprocessors = multiprocessors, .compute_capability = 90, .shared_bytes = 227 << 10};
}

// Forward with gate and up side by side, dgrad through an activation and through none, wgrad.
void run_products(Device& d, const Case& c, DType dtype, bool transposed) {
  const auto E = static_cast<int64_t>(c.offsets.size()) - 1;
  const Tensor offsets = d.ints({E + 1}, c.offsets), rows = d.random(dtype, {c.R, c.C});
  const Shape shape = transposed ? Shape{E, c.C, 2 * c.N} : Shape{E, 2 * c.N, c.C};
  const Tensor weight = d.random(dtype, shape);
  d.run(GroupedMatmul{.activation = {.function = Activation::swiglu},
                      .rows = rows,
                      .weight = weight,
                      .offsets = offsets,
                      .bias = d.random(dtype, {E, 2 * c.N}),
                      .transposed = transposed,
                      .out = d.out("out", dtype, {c.R, c.N}),
                      .pre_activation = d.out("preActivation", dtype, {c.R, 2 * c.N})});
  const Tensor d_out = d.random(dtype, {c.R, 2 * c.N});
  d.run(GroupedMatmulDgrad{.activation = {.function = Activation::silu},
                           .d_out = d_out,
                           .weight = weight,
                           .offsets = offsets,
                           .pre_activation = d.random(dtype, {c.R, c.C}),
                           .transposed = transposed,
                           .d_rows = d.out("dRows", dtype, {c.R, c.C})});
  d.run(GroupedMatmulDgrad{.activation = {},
                           .d_out = d_out,
                           .weight = weight,
                           .offsets = offsets,
                           .transposed = transposed,
                           .d_rows = d.out("dRows of the identity", dtype, {c.R, c.C})});
  d.run(GroupedMatmulWgrad{.d_out = d_out,
                           .rows = rows,
                           .offsets = offsets,
                           .d_weight = d.out("dWeight", dtype, shape),
                           .transposed = transposed});
}

// ‖a - b‖ / ‖b‖
double distance(const Device::Output& a, const Device::Output& b) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < a.bits.size(); ++i) {
    const double right = value_of(b.dtype, b.bits[i]);
    error += std::pow(value_of(a.dtype, a.bits[i]) - right, 2);
    norm += right * right;
  }
  return std::sqrt(error / norm);
}

}  // namespace

TEST_CASE("every tile size") {
  const OlderDevice older;
  for (const Case& c : kCases) {
    const GemmShape up = {.groups = static_cast<int32_t>(c.offsets.size()) - 1,
                          .rows = c.R,
                          .n = c.N,
                          .k = c.C,
                          .side_by_side = true};
    CHECK_EQ(gemm_config(up, device(4)).size, c.size);
    for (DType dtype : kDTypes) {
      for (bool transposed : {false, true}) {
        INFO(std::string(name_of(dtype)));
        for (int64_t columns : {c.C, c.C - c.C % 8}) {
          Case aligned_or_not = c;
          aligned_or_not.C = columns;
          compare([&](Device& d) { run_products(d, aligned_or_not, dtype, transposed); });
        }
      }
    }
  }
}

TEST_CASE("tf32 where it is asked for: near, and not the same") {
  for (const Case& c : kCases) {
    const auto outputs = [&](Float32Matmul setting) {
      const Float32Setting chosen(setting);
      Device d(cuda::make_queue(0));
      run_products(d, c, DType::float32, false);
      return d.read_outputs();
    };
    const auto exact = outputs(Float32Matmul::float32), rounded = outputs(Float32Matmul::tf32);
    for (size_t i = 0; i < exact.size(); ++i) {
      // Operands lose 13 of 24 bits: 2⁻¹¹ each at most, about a third of that on average.
      const double error = distance(rounded[i], exact[i]);
      CHECK_MESSAGE(error > 1e-5, exact[i].name, " was not rounded");
      CHECK_MESSAGE(error < 6e-4, exact[i].name, " is off by ", error);
    }
  }
}

TEST_CASE("the choice of a configuration") {
  const GemmShape mixtral = {.format = DType::bfloat16, .groups = 8, .rows = 1024, .n = 14336, .k = 4096};
  SUBCASE("the more rows a group, the larger the tile") {
    for (const auto& [rows, size] : {std::pair(int64_t{1}, TileSize::narrow),
                                     {3, TileSize::flat},
                                     {128, TileSize::flat},
                                     {129, TileSize::small},
                                     {513, TileSize::large},
                                     {65536, TileSize::large}}) {
      GemmShape shape = mixtral;
      shape.rows = rows;
      CHECK_EQ(gemm_config(shape, device(132)).size, size);
    }
  }
  SUBCASE("large tiles only where they occupy the device") {
    GemmShape narrow = mixtral;
    narrow.n = 256;
    CHECK_EQ(gemm_config(narrow, device(132)).size, TileSize::small);
    CHECK_EQ(gemm_config(narrow, device(8)).size, TileSize::large);
  }
  SUBCASE("the arithmetic is the dtypes' alone") {
    for (int64_t rows : {0, 1, 100'000}) {
      GemmShape shape = mixtral;
      shape.rows = rows;
      CHECK_EQ(gemm_config(shape, device(132)).arithmetic, cuda::Arithmetic::bfloat16);
      shape.format = DType::float32;
      CHECK_EQ(gemm_config(shape, device(132)).arithmetic, cuda::Arithmetic::float32);
      shape.tf32 = true;
      CHECK_EQ(gemm_config(shape, device(132)).arithmetic, cuda::Arithmetic::tf32);
    }
  }
  SUBCASE("no more blocks than tiles, no blocks for nothing") {
    GemmShape shape = mixtral;
    shape.rows = 1;
    CHECK_EQ(gemm_config(shape, device(132)).blocks, 14336 / 64);
    shape.rows = 0;
    CHECK_EQ(gemm_config(shape, device(132)).blocks, 0);
    shape.rows = 1 << 20;
    CHECK_EQ(gemm_config(shape, device(132)).blocks, 4 * 132);
  }
  SUBCASE("whole rows") {
    GemmShape router = {.rows = 4096, .n = 128, .k = 2048};
    CHECK_EQ(whole_row_config(router, device(132))->size, TileSize::flat);
    CHECK_EQ(whole_row_config(router, device(32))->size, TileSize::large);
    router.n = 129;
    CHECK_EQ(whole_row_config(router, device(132))->size, TileSize::wide);
    router.n = 257;
    CHECK_FALSE(whole_row_config(router, device(132)).has_value());
  }
  SUBCASE("in words") {
    CHECK_EQ(describe(mixtral), "bfloat16 groups 8 m 1024 (ragged) n 14336 k 4096, not aligned");
    CHECK_EQ(describe(gemm_config(mixtral, device(132))),
             "mma bfloat16, tile 128 x 128, 4 stages of 64 bytes, 528 blocks");
  }
}

}  // namespace moe::test
