// Every error that the emulator must find, made on purpose: its code, and the words that lead to the line.
#include "support.h"

#undef NDEBUG
#include <cassert>

namespace simt::test {
namespace {

constexpr unsigned kAll = 0xffffffffu;

__global__ void divergent_barrier(int*) {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void early_exit(int*) {
  if (threadIdx.x == 3) return;
  __syncthreads();
}

__global__ void missing_lane(int* out) {
  if (threadIdx.x != 7) out[threadIdx.x] = __shfl_sync(kAll, 1, 0);
}

__global__ void lane_elsewhere(int* out) {
  if (threadIdx.x == 7) {
    out[7] = __shfl_sync(kAll, 1, 0);
  } else {
    out[threadIdx.x] = __shfl_xor_sync(kAll, 1, 1);
  }
}

__global__ void mask_without_caller(int* out) {
  out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 0);
}

__global__ void read_outside_mask(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_down_sync(0x0000ffffu, 1, 1);
}

__global__ void lane_beyond_block(int* out) {
  out[threadIdx.x] = __shfl_sync(kAll, 1, 0);
}

// Each half waits where the other never comes.
__global__ void stuck(int*) {
  named_barrier_sync(threadIdx.x < 32 ? 1 : 2, 64);
}

__global__ void polls_forever(unsigned* flag) {
  while (atomicCAS(flag, 1u, 2u) != 1u) {
  }
}

__global__ void write_at(int* out, int index) {
  __syncwarp(1);
  out[index] = 1;
}

__global__ void write_shared_at(int index) {
  reinterpret_cast<int*>(dynamic_shared())[index] = 1;
}

__global__ void wild(int* nowhere) {
  *nowhere = 1;
}

__global__ void recurse(int* out, int depth) {
  volatile int frame[1024];
  frame[depth % 1024] = depth;
  if (depth < 1000000) recurse(out, depth + 1);
  out[0] = frame[depth % 1024];
}

__global__ void asserts(int value) {
  assert(value == 3);
}

__global__ void traps() {
  __trap();
}

__global__ void copy_shared_out(float* out) {
  out[threadIdx.x] = reinterpret_cast<float*>(dynamic_shared())[threadIdx.x];
}

}  // namespace

TEST_CASE("barriers that not all threads reach") {
  const Fresh fresh;
  const DeviceArray<int> out(64);
  SUBCASE("two lines") {
    CHECK_EQ(run({}, divergent_barrier, out.data()), cudaErrorLaunchFailure);
    CHECK(reported("divergent barrier"));
    CHECK(reported("diagnostics_test.cpp:14"));
    CHECK(reported("diagnostics_test.cpp:16"));
  }
  SUBCASE("an exit") {
    CHECK_EQ(run({.block = 64}, early_exit, out.data()), cudaErrorLaunchFailure);
    CHECK(reported("(3, 0, 0)"));
    CHECK(reported("diagnostics_test.cpp:22"));
    CHECK(reported("early_exit"));
  }
  SUBCASE("no way on") {
    CHECK_EQ(run({.block = 64}, stuck, out.data()), cudaErrorLaunchFailure);
    CHECK(reported("deadlock"));
    CHECK(reported("threads 0-63: at bar.sync, diagnostics_test.cpp:"));
  }
}

TEST_CASE("warp collectives that not all lanes of the mask reach") {
  const Fresh fresh;
  const DeviceArray<int> out(64);
  SUBCASE("one exits") {
    CHECK_EQ(run({}, missing_lane, out.data()), cudaErrorLaunchFailure);
    CHECK(reported("exit"));
    CHECK(reported("__shfl_sync"));
  }
  SUBCASE("one is in another call") {
    CHECK_EQ(run({}, lane_elsewhere, out.data()), cudaErrorLaunchFailure);
    CHECK(reported("waits in another call"));
  }
  SUBCASE("the mask lacks the caller") {
    CHECK_EQ(run({}, mask_without_caller, out.data()), cudaErrorLaunchFailure);
    CHECK(reported("mask 0x0000ffff lacks the caller"));
  }
  SUBCASE("a value from outside the mask") {
    CHECK_EQ(run({}, read_outside_mask, out.data()), cudaErrorLaunchFailure);
    CHECK(reported("lane 15 reads lane 16"));
  }
  SUBCASE("a lane that the block lacks") {
    CHECK_EQ(run({.block = 20}, lane_beyond_block, out.data()), cudaErrorLaunchFailure);
    CHECK(reported("lane 20, which the block does not have"));
  }
}

TEST_CASE("a poll that nobody answers") {
  const Fresh fresh;
  const DeviceArray<unsigned> flag(std::vector<unsigned>{0});
  CHECK_EQ(run({.block = 1}, polls_forever, flag.data()), cudaErrorLaunchFailure);
  CHECK(reported("livelock"));
  CHECK(reported("atomicCAS"));
}

TEST_CASE("accesses outside of allocations") {
  const Fresh fresh;
  int* out = nullptr;
  REQUIRE_EQ(cudaMalloc(&out, 64 * sizeof(int)), cudaSuccess);
  SUBCASE("one past the end") {
    CHECK_EQ(run({.block = 1}, write_at, out, 64), cudaErrorIllegalAddress);
    CHECK(reported("0 bytes past the end of allocation"));
    CHECK(reported("(256 bytes)"));
    CHECK(reported("write_at"));
    CHECK(reported("__syncwarp, diagnostics_test.cpp:"));
  }
  SUBCASE("far before") {
    CHECK_EQ(run({.block = 1}, write_at, out, -1024), cudaErrorIllegalAddress);
  }
  SUBCASE("one past the end, where the size is no multiple of 16") {
    int* odd = nullptr;
    REQUIRE_EQ(cudaMalloc(&odd, 5 * sizeof(int)), cudaSuccess);
    CHECK_EQ(run({.block = 1}, write_at, odd, 5), cudaErrorIllegalAddress);
    CHECK(reported("a write past the end of allocation"));
  }
  SUBCASE("after free") {
    REQUIRE_EQ(cudaFree(out), cudaSuccess);
    CHECK_EQ(run({.block = 1}, write_at, out, 2), cudaErrorIllegalAddress);
    CHECK(reported("byte 8 of freed allocation"));
  }
  SUBCASE("freed twice") {
    REQUIRE_EQ(cudaFree(out), cudaSuccess);
    CHECK_EQ(cudaFree(out), cudaErrorInvalidValue);
    CHECK(reported("freed allocation"));
  }
  SUBCASE("a null pointer") {
    CHECK_EQ(run({.block = 1}, wild, static_cast<int*>(nullptr)), cudaErrorIllegalAddress);
    CHECK(reported("near no allocation"));
  }
}

TEST_CASE("accesses outside of shared memory") {
  const Fresh fresh;
  CHECK_EQ(run({.block = 1, .shared = 1024}, write_shared_at, 255), cudaSuccess);
  SUBCASE("at a guard page") {
    CHECK_EQ(run({.block = 1, .shared = 1024}, write_shared_at, 256), cudaErrorIllegalAddress);
    CHECK(reported("byte 1024 of 1024"));
  }
  SUBCASE("in the rounding") {
    CHECK_EQ(run({.block = 1, .shared = 1020}, write_shared_at, 255), cudaErrorIllegalAddress);
    CHECK(reported("a write past the end of the 1020 bytes of shared memory"));
  }
}

TEST_CASE("other ends of a kernel") {
  const Fresh fresh;
  const DeviceArray<int> out(1);
  SUBCASE("stack overflow") {
    CHECK_EQ(run({.block = 1}, recurse, out.data(), 0), cudaErrorIllegalAddress);
    CHECK(reported("stack of an emulated thread overflowed"));
  }
  SUBCASE("assertion") {
    CHECK_EQ(run({.block = 1}, asserts, 4), cudaErrorAssert);
    CHECK(reported("value == 3"));
  }
  SUBCASE("trap") {
    CHECK_EQ(run({.block = 1}, traps), cudaErrorLaunchFailure);
    CHECK(reported("diagnostics_test.cpp:"));
  }
}

TEST_CASE("a failed kernel fails every later call, until the runtime starts over") {
  const Fresh fresh;
  CHECK_EQ(run({.block = 1}, traps), cudaErrorLaunchFailure);
  int* out = nullptr;
  CHECK_EQ(cudaMalloc(&out, 4), cudaErrorLaunchFailure);
  CHECK_EQ(launch({}, traps), cudaErrorLaunchFailure);
  CHECK_EQ(cudaGetLastError(), cudaErrorLaunchFailure);
  CHECK_EQ(cudaGetLastError(), cudaErrorLaunchFailure);
  reset();
  CHECK_EQ(cudaGetLastError(), cudaSuccess);
  CHECK_EQ(cudaMalloc(&out, 4), cudaSuccess);
  CHECK_EQ(cudaFree(out), cudaSuccess);
}

TEST_CASE("memory is poisoned: device, pinned and shared, again for every block") {
  const Fresh fresh;
  const DeviceArray<float> out(64);
  for (const float value : out.values()) CHECK(value != value);
  for (int turn = 0; turn < 2; ++turn) {
    REQUIRE_EQ(run({.grid = 2, .shared = 256}, copy_shared_out, out.data()), cudaSuccess);
    const auto got = out.values();
    for (int index = 0; index < 32; ++index) CHECK(got[index] != got[index]);
    REQUIRE_EQ(run({.block = 1, .shared = 256}, write_shared_at, 3), cudaSuccess);
  }
  float* pinned = nullptr;
  REQUIRE_EQ(cudaHostAlloc(&pinned, 64, cudaHostAllocDefault), cudaSuccess);
  CHECK(pinned[15] != pinned[15]);
  CHECK_EQ(cudaFreeHost(pinned), cudaSuccess);
}

}  // namespace simt::test
