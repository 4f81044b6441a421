// A bf16 matrix product as kernels for compute capability 9.0 are built: a producer warp that copies boxes
// with tensor maps, full and empty mbarriers, two consumer warpgroups with wgmma, a result that leaves by a
// tensor store; against a plain loop. What it needs in order to be right is left out one at a time.
#include <cmath>

#include "cuda.h"
#include "simt/ptx.h"
#include "support.h"

namespace simt::test {
namespace {

using namespace simt::ptx;

constexpr uint32_t kM = 128, kN = 64, kK = 64, kStages = 2;
constexpr uint32_t kABytes = kM * kK * 2, kBBytes = kN * kK * 2, kStageBytes = kABytes + kBBytes;
constexpr uint32_t kResultBytes = kM * kN * 4;
constexpr uint32_t kBarriersAt = kStages * kStageBytes + kResultBytes;
constexpr uint32_t kShared = kBarriersAt + 1024;
constexpr unsigned kThreads = 3 * 128;

enum class Flaw {
  none,
  full_wait,
  empty_wait,
  wgmma_wait,
  one_arrival,
  proxy_fence,
  swizzle,
  expected_bytes,
  store_wait
};

struct Problem {
  CUtensorMap a, b, c;
  unsigned k;
  Flaw flaw;
};

struct Pipeline {
  uint32_t shared;

  __device__ uint32_t a(unsigned step) const { return shared + step % kStages * kStageBytes; }
  __device__ uint32_t b(unsigned step) const { return a(step) + kABytes; }
  __device__ uint32_t result() const { return shared + kStages * kStageBytes; }
  __device__ uint32_t full(unsigned step) const { return shared + kBarriersAt + step % kStages * 8; }
  __device__ uint32_t empty(unsigned step) const { return full(step) + kStages * 8; }
  __device__ static uint32_t parity(unsigned step) { return step / kStages % 2; }
};

// K-major, 128-byte swizzle: 1024 bytes from 8 rows to the next 8.
__device__ uint64_t describe_operand(uint32_t address) {
  return uint64_t{(address & 0x3ffff) >> 4} | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}

__device__ void wait(uint32_t barrier, uint32_t parity) {
  while (!mbarrier_try_wait_parity(barrier, parity)) {
  }
}

__device__ void produce(const Problem& problem, const Pipeline& pipe, unsigned steps) {
  if (!elect_sync()) return;
  const auto row = static_cast<int32_t>(blockIdx.y * kM), column = static_cast<int32_t>(blockIdx.x * kN);
  for (unsigned step = 0; step < steps; ++step) {
    if (problem.flaw != Flaw::empty_wait) wait(pipe.empty(step), Pipeline::parity(step) ^ 1);
    mbarrier_arrive_expect_tx(pipe.full(step), kStageBytes + (problem.flaw == Flaw::expected_bytes ? 16 : 0));
    const auto k = static_cast<int32_t>(step * kK);
    cp_async_bulk_tensor_shared_global(pipe.a(step), &problem.a, {k, row}, pipe.full(step));
    cp_async_bulk_tensor_shared_global(pipe.b(step), &problem.b, {k, column}, pipe.full(step));
  }
}

__device__ void consume(const Problem& problem, const Pipeline& pipe, unsigned steps) {
  const unsigned group = threadIdx.x / 128 - 1, thread = threadIdx.x % 128;
  float sum[kN / 2];
  for (unsigned step = 0; step < steps; ++step) {
    if (problem.flaw != Flaw::full_wait) wait(pipe.full(step), Pipeline::parity(step));
    wgmma_fence();
    for (unsigned k = 0; k < kK / 16; ++k) {
      const uint32_t a = pipe.a(step) + group * 64 * kK * 2 + k * 32, b = pipe.b(step) + k * 32;
      wgmma_m64k16_bf16<kN>(sum, describe_operand(a), describe_operand(b), {.scale_d = step + k > 0});
    }
    wgmma_commit_group();
    if (problem.flaw != Flaw::wgmma_wait) wgmma_wait_group(0);
    if (problem.flaw == Flaw::one_arrival) {
      if (thread == 0) mbarrier_arrive(pipe.empty(step), 4);
    } else if (thread % 32 == 0) {
      mbarrier_arrive(pipe.empty(step));
    }
  }
  auto* const result = reinterpret_cast<float*>(dynamic_shared() + kStages * kStageBytes);
  for (unsigned index = 0; index < kN / 2; ++index) {
    const unsigned row = group * 64 + thread / 32 * 16 + thread % 32 / 4 + index / 2 % 2 * 8;
    result[row * kN + index / 4 * 8 + thread % 4 * 2 + index % 2] = sum[index];
  }
  if (problem.flaw != Flaw::proxy_fence) fence_proxy_async();
  named_barrier_sync(1 + group, 128);
  if (thread == 0) {
    const auto row = static_cast<int32_t>(blockIdx.y * kM + group * 64),
               column = static_cast<int32_t>(blockIdx.x * kN);
    cp_async_bulk_tensor_global_shared(&problem.c, {column, row}, pipe.result() + group * 64 * kN * 4);
    cp_async_bulk_commit_group();
    if (problem.flaw != Flaw::store_wait) cp_async_bulk_wait_group(0);
  }
}

__global__ void gemm(const __grid_constant__ Problem problem) {
  const Pipeline pipe = {.shared = shared_address(dynamic_shared())};
  if (threadIdx.x == 0) {
    for (unsigned stage = 0; stage < kStages; ++stage) {
      mbarrier_init(pipe.full(stage), 1);
      mbarrier_init(pipe.empty(stage), 8);  // a lane of each consumer warp
    }
    fence_mbarrier_init();
  }
  __syncthreads();
  const unsigned steps = (problem.k + kK - 1) / kK;
  if (threadIdx.x < 128) {
    setmaxnreg_dec(40);
    if (threadIdx.x < 32) produce(problem, pipe, steps);
  } else {
    setmaxnreg_inc(232);
    consume(problem, pipe, steps);
  }
}

CUtensorMap make_map(CUtensorMapDataType type, void* data, uint64_t rows, uint64_t columns,
                     uint32_t element_bytes, uint32_t box_rows, uint32_t box_columns,
                     CUtensorMapSwizzle swizzle) {
  CUtensorMap map;
  const cuuint64_t dims[] = {columns, rows}, strides[] = {columns * element_bytes};
  const cuuint32_t box[] = {box_columns, box_rows}, element_strides[] = {1, 1};
  REQUIRE_EQ(cuTensorMapEncodeTiled(&map, type, 2, data, dims, strides, box, element_strides,
                                    CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                                    CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
             CUDA_SUCCESS);
  return map;
}

struct Outcome {
  cudaError_t error;
  double relative;  // error of the product
};

Outcome multiply(unsigned m, unsigned n, unsigned k, Flaw flaw) {
  uint32_t state = 1;
  const auto next = [&state](size_t count) {
    std::vector<uint16_t> values;
    for (size_t index = 0; index < count; ++index) {
      state = state * 1664525u + 1013904223u;
      values.push_back(to_bfloat16(static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f));
    }
    return values;
  };
  const auto host_a = next(size_t{m} * k), host_b = next(size_t{n} * k);
  const DeviceArray<uint16_t> a(host_a), b(host_b);
  const DeviceArray<float> c(size_t{m} * n);
  const CUtensorMapSwizzle b_swizzle =
      flaw == Flaw::swizzle ? CU_TENSOR_MAP_SWIZZLE_NONE : CU_TENSOR_MAP_SWIZZLE_128B;
  const Problem problem = {
      .a = make_map(CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, a.data(), m, k, 2, kM, kK, CU_TENSOR_MAP_SWIZZLE_128B),
      .b = make_map(CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, b.data(), n, k, 2, kN, kK, b_swizzle),
      .c = make_map(CU_TENSOR_MAP_DATA_TYPE_FLOAT32, c.data(), m, n, 4, 64, kN, CU_TENSOR_MAP_SWIZZLE_NONE),
      .k = k,
      .flaw = flaw};
  const dim3 grid((n + kN - 1) / kN, (m + kM - 1) / kM);
  const cudaError_t error = run({.grid = grid, .block = kThreads, .shared = kShared}, gemm, problem);
  if (error != cudaSuccess) {
    reset();  // so that the arrays can be freed
    return {.error = error, .relative = NAN};
  }
  const auto got = c.values();
  double wrong = 0, norm = 0;
  for (unsigned row = 0; row < m; ++row) {
    for (unsigned column = 0; column < n; ++column) {
      double expected = 0;
      for (unsigned depth = 0; depth < k; ++depth) {
        expected += static_cast<double>(from_bfloat16(host_a[size_t{row} * k + depth])) *
                    from_bfloat16(host_b[size_t{column} * k + depth]);
      }
      wrong += std::pow(got[size_t{row} * n + column] - expected, 2);
      norm += std::pow(expected, 2);
    }
  }
  return {.error = error, .relative = std::sqrt(wrong / norm)};
}

}  // namespace

TEST_CASE("a product with tensor maps, mbarriers and wgmma") {
  for (uint64_t seed = 0; seed < 3; ++seed) {
    const Fresh fresh;
    settings().seed = seed;
    const Outcome outcome = multiply(136, 72, 200, Flaw::none);
    REQUIRE_EQ(outcome.error, cudaSuccess);
    CHECK(outcome.relative <= 1e-6);
  }
}

TEST_CASE("what such a product must not leave out") {
  const auto failures = [](Flaw flaw, uint64_t seeds) {
    uint64_t count = 0;
    for (uint64_t seed = 0; seed < seeds; ++seed) {
      const Fresh fresh;
      settings().seed = seed;
      const Outcome outcome = multiply(128, 64, 512, flaw);
      if (!(outcome.error == cudaSuccess && outcome.relative <= 1e-3)) ++count;
    }
    return count;
  };
  const auto fails = [&](Flaw flaw) { return failures(flaw, 3) == 3; };
  const auto sometimes_fails = [&](Flaw flaw) { return failures(flaw, 8) > 0; };
  SUBCASE("the wait for a full stage") {
    CHECK(fails(Flaw::full_wait));
  }
  SUBCASE("the wait for an empty stage") {
    CHECK(fails(Flaw::empty_wait));
  }
  SUBCASE("the wait for wgmma") {
    CHECK(fails(Flaw::wgmma_wait));
  }
  SUBCASE("the arrival of every warp that has read the stage") {
    CHECK(sometimes_fails(Flaw::one_arrival));
  }
  SUBCASE("the fence between writing shared memory and a bulk copy of it") {
    CHECK(fails(Flaw::proxy_fence));
  }
  SUBCASE("one swizzle for the copy and the descriptor") {
    CHECK(fails(Flaw::swizzle));
  }
  SUBCASE("the bytes that come") {
    CHECK(fails(Flaw::expected_bytes));
  }
  SUBCASE("the wait for a bulk copy to read shared memory") {
    CHECK(fails(Flaw::store_wait));
  }
}

}  // namespace simt::test
