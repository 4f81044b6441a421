// ldmatrix, stmatrix, mma.sync and cvt, against the fragment layouts of the PTX manual written out element by
// element.
#include <algorithm>
#include <cmath>
#include <limits>

#include "simt/ptx.h"
#include "support.h"

namespace simt::test {
namespace {

using namespace simt::ptx;

// Four 8x8 matrices of 16-bit numbers, in rows of 16 bytes; element (row, column) of matrix m is 64m + 8row +
// column.
template <bool Transposed>
__global__ void load_four(uint32_t* out) {
  auto* const shared = reinterpret_cast<uint16_t*>(dynamic_shared());
  for (unsigned index = threadIdx.x; index < 256; index += 32) shared[index] = static_cast<uint16_t>(index);
  __syncwarp();
  uint32_t registers[4];
  const uint32_t row = shared_address(shared) + threadIdx.x * 16;
  if constexpr (Transposed) {
    ldmatrix_trans(registers, row);
  } else {
    ldmatrix(registers, row);
  }
  for (int index = 0; index < 4; ++index) out[index * 32 + threadIdx.x] = registers[index];
}

__global__ void store_and_load(uint32_t* out) {
  auto* const shared = reinterpret_cast<uint32_t*>(dynamic_shared());
  const uint32_t mine[2] = {threadIdx.x, threadIdx.x + 100};
  stmatrix_trans(shared_address(shared) + threadIdx.x % 16 * 16, mine);
  __syncwarp();
  uint32_t back[2];
  ldmatrix_trans(back, shared_address(shared) + threadIdx.x % 16 * 16);
  out[threadIdx.x] = back[0];
  out[32 + threadIdx.x] = back[1];
  out[64 + threadIdx.x] = shared[threadIdx.x];
}

// d = a * b + c of one warp with every register given by the host.
struct MmaProblem {
  uint32_t a[32][4], b[32][2];
  float c[32][4], d[32][4];
};

__global__ void multiply_bf16(MmaProblem* problem) {
  const unsigned lane = threadIdx.x;
  mma_m16n8k16_bf16(problem->d[lane], problem->a[lane], problem->b[lane], problem->c[lane]);
}

__global__ void multiply_tf32(MmaProblem* problem) {
  const unsigned lane = threadIdx.x;
  mma_m16n8k8_tf32(problem->d[lane], problem->a[lane], problem->b[lane], problem->c[lane]);
}

float element(int row, int column, int salt) {
  return static_cast<float>((row * 7 + column * 13 + salt) % 17) - 8.0f;
}

void put_half(uint32_t& reg, int half, float value) {
  reg = (reg & ~(0xffffu << 16 * half)) | uint32_t{to_bfloat16(value)} << (16 * half);
}

// The same placement as the manual's formulas: row = groupID (+ 8), col = threadID_in_group * 2 + (i & 1) (+
// 8).
MmaProblem bf16_problem() {
  MmaProblem problem = {};
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane >> 2, in_group = lane % 4;
    for (int i = 0; i < 8; ++i) {
      const int row = (i < 2) || (i >= 4 && i < 6) ? group : group + 8;
      const int column = i < 4 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
      put_half(problem.a[lane][i / 2], i % 2, element(row, column, 1));
    }
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
      put_half(problem.b[lane][i / 2], i % 2, element(row, group, 2));
    }
  }
  return problem;
}

MmaProblem tf32_problem() {
  MmaProblem problem = {};
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane >> 2, in_group = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = i == 0 || i == 2 ? group : group + 8;
      const int column = i < 2 ? in_group : in_group + 4;
      problem.a[lane][i] = __float_as_uint(element(row, column, 1)) | 0x1fffu;  // what it must ignore
    }
    for (int i = 0; i < 2; ++i) problem.b[lane][i] = __float_as_uint(element(in_group + 4 * i, group, 2));
  }
  return problem;
}

void check_product(MmaProblem problem, void (*kernel)(MmaProblem*), int k_count) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) problem.c[lane][i] = element(lane, i, 3);
  }
  const DeviceArray<MmaProblem> device(std::vector<MmaProblem>{problem});
  REQUIRE_EQ(run({}, kernel, device.data()), cudaSuccess);
  const MmaProblem got = device.values()[0];
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? lane >> 2 : (lane >> 2) + 8, column = lane % 4 * 2 + (i & 1);
      float expected = element(lane, i, 3);
      for (int k = 0; k < k_count; ++k) expected += element(row, k, 1) * element(k, column, 2);
      CHECK_EQ(got.d[lane][i], expected);
    }
  }
}

}  // namespace

TEST_CASE("ldmatrix gives lane l elements 2(l%4) and 2(l%4)+1 of row l/4") {
  const Fresh fresh;
  const DeviceArray<uint32_t> out(128);
  REQUIRE_EQ(run({.shared = 512}, load_four<false>, out.data()), cudaSuccess);
  const auto got = out.values();
  for (uint32_t matrix = 0; matrix < 4; ++matrix) {
    for (uint32_t lane = 0; lane < 32; ++lane) {
      const uint32_t low = matrix * 64 + lane / 4 * 8 + lane % 4 * 2;
      CHECK_EQ(got[matrix * 32 + lane], (low + 1) << 16 | low);
    }
  }
  CHECK_EQ(got[0], 0x00010000u);        // T0: row 0, elements 0 and 1
  CHECK_EQ(got[5], 0x000b000au);        // T5: row 1, elements 2 and 3
  CHECK_EQ(got[32 + 31], 0x007f007eu);  // T31: row 7, elements 6 and 7, of the second
}

TEST_CASE("ldmatrix.trans gives lane l elements l/4 of rows 2(l%4) and 2(l%4)+1") {
  const Fresh fresh;
  const DeviceArray<uint32_t> out(128);
  REQUIRE_EQ(run({.shared = 512}, load_four<true>, out.data()), cudaSuccess);
  const auto got = out.values();
  for (uint32_t matrix = 0; matrix < 4; ++matrix) {
    for (uint32_t lane = 0; lane < 32; ++lane) {
      const uint32_t low = matrix * 64 + lane % 4 * 16 + lane / 4;
      CHECK_EQ(got[matrix * 32 + lane], (low + 8) << 16 | low);
    }
  }
}

TEST_CASE("stmatrix is the inverse of ldmatrix, and needs compute capability 9.0") {
  const Fresh fresh;
  const DeviceArray<uint32_t> out(96);
  REQUIRE_EQ(run({.shared = 256}, store_and_load, out.data()), cudaSuccess);
  const auto got = out.values();
  for (uint32_t lane = 0; lane < 32; ++lane) {
    CHECK_EQ(got[lane], lane);
    CHECK_EQ(got[32 + lane], lane + 100);
  }
  CHECK_EQ(got[64], 4u << 16);  // row 0 in memory: the low halves of lanes 0 and 4
  settings().compute_capability = 80;
  CHECK_EQ(run({.shared = 256}, store_and_load, out.data()), cudaErrorIllegalInstruction);
}

TEST_CASE("mma.sync places its fragments as the manual says") {
  const Fresh fresh;
  SUBCASE("m16n8k16, bf16") {
    check_product(bf16_problem(), multiply_bf16, 16);
  }
  SUBCASE("m16n8k8, tf32") {
    check_product(tf32_problem(), multiply_tf32, 8);
  }
}

TEST_CASE("conversions round as PTX does") {
  CHECK_EQ(to_bfloat16(1.0f), 0x3f80);
  CHECK_EQ(to_bfloat16(1.00390625f), 0x3f80);  // a tie, to even
  CHECK_EQ(to_bfloat16(1.01171875f), 0x3f82);  // a tie, to even
  CHECK_EQ(to_bfloat16(INFINITY), 0x7f80);
  CHECK_EQ(to_bfloat16(3.4e38f), 0x7f80);
  CHECK_EQ(to_bfloat16(NAN), 0x7fff);
  CHECK_EQ(to_float16(1.0f), 0x3c00);
  CHECK_EQ(to_float16(65519.0f), 0x7bff);
  CHECK_EQ(to_float16(65520.0f), 0x7c00);
  CHECK_EQ(to_float16(-0x1p-24f), 0x8001);
  CHECK_EQ(to_float16(0x1p-25f), 0x0000);  // a tie, to even
  CHECK_EQ(to_float16(0x1.8p-24f), 0x0002);
  CHECK_EQ(to_float16(1.0f + 0x1p-11f), 0x3c00);
  CHECK_EQ(to_float16(1.0f + 0x1.8p-10f), 0x3c02);
  CHECK_EQ(ptx::cvt_rn_bf16x2_f32(1.0f, 2.0f), 0x3f804000u);
  CHECK_EQ(ptx::cvt_rna_tf32_f32(1.0f + 0x1p-11f), 0x3f802000u);  // a tie, away from zero
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = from_float16(static_cast<uint16_t>(bits));
    if (value == value) CHECK_EQ(to_float16(value), bits);
  }
}

}  // namespace simt::test
