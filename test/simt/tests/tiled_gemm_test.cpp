// A tiled bf16 matrix product as kernels for compute capability 8.0 are built: cp.async in stages, ldmatrix
// from rows swizzled by hand, mma.sync; against a plain loop. The waits that it needs are left out one at a
// time.
#include <cmath>

#include "simt/ptx.h"
#include "support.h"

namespace simt::test {
namespace {

using namespace simt::ptx;

constexpr unsigned kTile = 64, kDepth = 32, kStages = 3, kThreads = 128;
constexpr unsigned kRowBytes = kDepth * 2;
constexpr unsigned kStageBytes = 2 * kTile * kRowBytes;

struct Problem {
  const uint16_t *a, *b;  // [m][k] and [n][k]
  float* c;               // [m][n]
  unsigned m, n, k;
};

// What is left out.
enum class Flaw { none, wait, barrier };

// 16-byte chunk CHUNK of ROW of an operand tile.
__device__ uint32_t chunk_offset(unsigned row, unsigned chunk) {
  return row * kRowBytes + ((chunk ^ (row >> 1 & 3)) * 16);
}

__device__ void fetch_operand(uint32_t to, const uint16_t* from, unsigned rows, unsigned first, unsigned k0,
                              unsigned k) {
  for (unsigned index = threadIdx.x; index < kTile * 4; index += kThreads) {
    const unsigned row = index / 4, chunk = index % 4, column = k0 + chunk * 8;
    const bool inside = first + row < rows && column < k;
    const uint16_t* const source = inside ? from + size_t{first + row} * k + column : from;
    cp_async_cg(to + chunk_offset(row, chunk), source, inside ? 16 : 0);
  }
}

__device__ void fetch_stage(const Problem& problem, uint32_t shared, unsigned step) {
  const uint32_t stage = shared + step % kStages * kStageBytes;
  if (step * kDepth < problem.k) {
    fetch_operand(stage, problem.a, problem.m, blockIdx.y * kTile, step * kDepth, problem.k);
    fetch_operand(stage + kTile * kRowBytes, problem.b, problem.n, blockIdx.x * kTile, step * kDepth,
                  problem.k);
  }
  cp_async_commit_group();
}

// A warp multiplies 16 rows by all 64 columns.
__device__ void multiply_stage(float (&sum)[8][4], uint32_t stage) {
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (unsigned half = 0; half < kDepth / 16; ++half) {
    uint32_t a[4];
    ldmatrix(a, stage + chunk_offset(warp * 16 + lane % 16, half * 2 + lane / 16));
    for (unsigned pair = 0; pair < 4; ++pair) {
      uint32_t b[4];
      const unsigned row = pair * 16 + lane % 8 + lane / 16 * 8;
      ldmatrix(b, stage + kTile * kRowBytes + chunk_offset(row, half * 2 + lane / 8 % 2));
      mma_m16n8k16_bf16(sum[pair * 2], a, {b[0], b[1]}, sum[pair * 2]);
      mma_m16n8k16_bf16(sum[pair * 2 + 1], a, {b[2], b[3]}, sum[pair * 2 + 1]);
    }
  }
}

__device__ void store_tile(const Problem& problem, const float (&sum)[8][4]) {
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (unsigned tile = 0; tile < 8; ++tile) {
    for (unsigned index = 0; index < 4; ++index) {
      const unsigned row = blockIdx.y * kTile + warp * 16 + lane / 4 + index / 2 * 8;
      const unsigned column = blockIdx.x * kTile + tile * 8 + lane % 4 * 2 + index % 2;
      if (row < problem.m && column < problem.n)
        problem.c[size_t{row} * problem.n + column] = sum[tile][index];
    }
  }
}

__global__ void gemm(Problem problem, Flaw flaw) {
  const uint32_t shared = shared_address(dynamic_shared());
  float sum[8][4] = {};
  for (unsigned step = 0; step < kStages - 1; ++step) fetch_stage(problem, shared, step);
  const unsigned steps = (problem.k + kDepth - 1) / kDepth;
  for (unsigned step = 0; step < steps; ++step) {
    if (flaw != Flaw::wait) cp_async_wait_group(kStages - 2);
    if (flaw != Flaw::barrier) __syncthreads();
    fetch_stage(problem, shared, step + kStages - 1);
    multiply_stage(sum, shared + step % kStages * kStageBytes);
  }
  store_tile(problem, sum);
}

struct Matrices {
  unsigned m, n, k;
  std::vector<uint16_t> a, b;
  std::vector<double> product;
};

Matrices make_matrices(unsigned m, unsigned n, unsigned k) {
  Matrices made = {.m = m, .n = n, .k = k, .a = {}, .b = {}, .product = std::vector<double>(size_t{m} * n)};
  uint32_t state = 1;
  const auto next = [&state] {
    state = state * 1664525u + 1013904223u;
    return to_bfloat16(static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f);
  };
  for (size_t index = 0; index < size_t{m} * k; ++index) made.a.push_back(next());
  for (size_t index = 0; index < size_t{n} * k; ++index) made.b.push_back(next());
  for (unsigned row = 0; row < m; ++row) {
    for (unsigned column = 0; column < n; ++column) {
      for (unsigned depth = 0; depth < k; ++depth) {
        made.product[size_t{row} * n + column] +=
            static_cast<double>(from_bfloat16(made.a[size_t{row} * k + depth])) *
            from_bfloat16(made.b[size_t{column} * k + depth]);
      }
    }
  }
  return made;
}

// The error of the product relative to its norm; not a number where any element is not.
double relative_error(const Matrices& matrices, Flaw flaw) {
  const DeviceArray<uint16_t> a(matrices.a), b(matrices.b);
  const DeviceArray<float> c(matrices.product.size());
  const Problem problem = {
      .a = a.data(), .b = b.data(), .c = c.data(), .m = matrices.m, .n = matrices.n, .k = matrices.k};
  const dim3 grid((matrices.n + kTile - 1) / kTile, (matrices.m + kTile - 1) / kTile);
  REQUIRE_EQ(run({.grid = grid, .block = kThreads, .shared = kStages * kStageBytes}, gemm, problem, flaw),
             cudaSuccess);
  const auto got = c.values();
  double error = 0, norm = 0;
  for (size_t index = 0; index < got.size(); ++index) {
    error += std::pow(got[index] - matrices.product[index], 2);
    norm += std::pow(matrices.product[index], 2);
  }
  return std::sqrt(error / norm);
}

}  // namespace

TEST_CASE("a tiled product with cp.async, ldmatrix and mma.sync") {
  for (uint64_t seed = 0; seed < 3; ++seed) {
    const Fresh fresh;
    settings().seed = seed;
    CHECK(relative_error(make_matrices(130, 72, 104), Flaw::none) <= 1e-6);
  }
}

TEST_CASE("several host threads give the same bits") {
  const Fresh fresh;
  const Matrices matrices = make_matrices(200, 136, 72);
  const double alone = relative_error(matrices, Flaw::none);
  settings().threads = 3;
  CHECK_EQ(relative_error(matrices, Flaw::none), alone);
}

TEST_CASE("a tiled product that forgets to wait is wrong") {
  for (uint64_t seed = 0; seed < 3; ++seed) {
    const Fresh fresh;
    settings().seed = seed;
    const Matrices matrices = make_matrices(64, 64, 128);
    CHECK_FALSE(relative_error(matrices, Flaw::wait) <= 1e-3);
    CHECK_FALSE(relative_error(matrices, Flaw::barrier) <= 1e-3);
  }
}

}  // namespace simt::test
