// Instructions of compute capability 9.0, one by one: mbarriers, bulk and tensor copies, clusters.
#include "cuda.h"
#include "simt/ptx.h"
#include "support.h"

namespace simt::test {
namespace {

using namespace simt::ptx;

__device__ void wait(uint32_t barrier, uint32_t parity) {
  while (!mbarrier_try_wait_parity(barrier, parity)) {
  }
}

struct Phases {
  int fresh_even, fresh_odd, half, full_even, full_odd, by_state, again;
};

__global__ void count_phases(Phases* out) {
  const uint32_t barrier = shared_address(dynamic_shared());
  mbarrier_init(barrier, 2);
  out->fresh_even = mbarrier_test_wait_parity(barrier, 0);
  out->fresh_odd = mbarrier_test_wait_parity(barrier, 1);
  const uint64_t state = mbarrier_arrive(barrier);
  out->half = mbarrier_test_wait(barrier, state);
  mbarrier_arrive(barrier);
  out->full_even = mbarrier_test_wait_parity(barrier, 0);
  out->full_odd = mbarrier_test_wait_parity(barrier, 1);
  out->by_state = mbarrier_test_wait(barrier, state);
  mbarrier_arrive(barrier, 2);
  out->again = mbarrier_test_wait_parity(barrier, 1);
  mbarrier_inval(barrier);
}

enum class Misuse { none, uninitialised, twice, too_many, overwritten, never };

__global__ void misuse(Misuse how) {
  const uint32_t barrier = shared_address(dynamic_shared());
  if (how != Misuse::uninitialised) mbarrier_init(barrier, 1);
  if (how == Misuse::twice) mbarrier_init(barrier, 1);
  if (how == Misuse::overwritten) *reinterpret_cast<int*>(dynamic_shared()) = 0;
  if (how == Misuse::too_many) mbarrier_arrive(barrier, 2);
  if (how != Misuse::never) mbarrier_arrive(barrier);
  wait(barrier, 0);
}

// Copies a row in, doubles it, copies it out; reads too soon into EARLY.
__global__ void there_and_back(const float* from, float* to, float* early) {
  auto* const row = reinterpret_cast<float*>(dynamic_shared());
  const uint32_t at = shared_address(row), barrier = at + 1024;
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect_tx(barrier, 128);
    cp_async_bulk_shared_global(at, from, 128, barrier);
  }
  __syncthreads();
  early[threadIdx.x] = row[threadIdx.x];
  wait(barrier, 0);
  row[threadIdx.x] *= 2;
  fence_proxy_async();
  __syncthreads();
  if (threadIdx.x == 0) {
    cp_async_bulk_global_shared(to, at, 128);
    cp_async_bulk_commit_group();
    cp_async_bulk_wait_group_read(0);
  }
}

__global__ void gather_by_cp_async(const int* from, int* to) {
  auto* const shared = reinterpret_cast<int*>(dynamic_shared());
  const uint32_t at = shared_address(shared), barrier = at + 1024;
  if (threadIdx.x == 0) mbarrier_init(barrier, 32);
  __syncthreads();
  cp_async_ca(at + threadIdx.x * 4, from + threadIdx.x, 4, 4);
  cp_async_mbarrier_arrive_noinc(barrier);
  wait(barrier, 0);
  to[threadIdx.x] = shared[31 - threadIdx.x];
}

// Copies one box and shows shared memory as it lies there.
struct BoxCopy {
  CUtensorMap map;
  int32_t x, y, z;
  uint32_t bytes;
};

__global__ void show_box(BoxCopy copy, unsigned char* out) {
  const uint32_t at = shared_address(dynamic_shared()), barrier = at + 16384;
  if (threadIdx.x == 0) {
    prefetch_tensormap(&copy.map);
    mbarrier_init(barrier, 1);
    mbarrier_arrive_expect_tx(barrier, copy.bytes);
    cp_async_bulk_tensor_shared_global(at, &copy.map, {copy.x, copy.y, copy.z}, barrier);
    wait(barrier, 0);
    for (uint32_t index = 0; index < copy.bytes; ++index) out[index] = dynamic_shared()[index];
  }
}

// Copies a box in and out again, elsewhere.
__global__ void move_box(BoxCopy from, BoxCopy to) {
  const uint32_t at = shared_address(dynamic_shared()), barrier = at + 16384;
  mbarrier_init(barrier, 1);
  mbarrier_arrive_expect_tx(barrier, from.bytes);
  cp_async_bulk_tensor_shared_global(at, &from.map, {from.x, from.y, from.z}, barrier);
  wait(barrier, 0);
  cp_async_bulk_tensor_global_shared(&to.map, {to.x, to.y, to.z}, at);
  cp_async_bulk_commit_group();
  cp_async_bulk_wait_group(0);
}

// Rows of 64 numbers, a matrix of 24 of them, three matrices: 16-bit numbers that say where they are.
constexpr uint64_t kWidth = 64, kHeight = 24, kDepth = 3;

uint16_t number_at(int64_t x, int64_t y, int64_t z) {
  const bool inside = x >= 0 && y >= 0 && z >= 0 && x < 64 && y < 24 && z < 3;
  return inside ? static_cast<uint16_t>(1 + x + y * 64 + z * 2048) : 0;
}

struct Encoding {
  uint32_t box[3] = {64, 8, 1};
  uint32_t element_strides[3] = {1, 1, 1};
  CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_NONE;
  uint64_t row_stride = kWidth * 2;
};

CUresult encode(CUtensorMap& map, void* data, const Encoding& encoding) {
  const cuuint64_t dims[] = {kWidth, kHeight, kDepth};
  const cuuint64_t strides[] = {encoding.row_stride, encoding.row_stride * kHeight};
  return cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 3, data, dims, strides, encoding.box,
                                encoding.element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE, encoding.swizzle,
                                CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

std::vector<uint16_t> volume() {
  std::vector<uint16_t> values;
  for (int z = 0; z < 3; ++z) {
    for (int y = 0; y < 24; ++y) {
      for (int x = 0; x < 64; ++x) values.push_back(number_at(x, y, z));
    }
  }
  return values;
}

// Shared memory after a copy of the box at (x, y, z), as 16-bit numbers.
std::vector<uint16_t> box_in_shared(const Encoding& encoding, int32_t x, int32_t y, int32_t z,
                                    uint32_t bytes) {
  const DeviceArray<uint16_t> data(volume());
  BoxCopy copy = {.map = {}, .x = x, .y = y, .z = z, .bytes = bytes};
  REQUIRE_EQ(encode(copy.map, data.data(), encoding), CUDA_SUCCESS);
  const DeviceArray<uint16_t> out(bytes / 2);
  REQUIRE_EQ(run({.shared = 17408}, show_box, copy, reinterpret_cast<unsigned char*>(out.data())),
             cudaSuccess);
  return out.values();
}

__global__ void share_ranks(uint32_t* out) {
  auto* const mine = reinterpret_cast<uint32_t*>(dynamic_shared());
  const uint32_t at = shared_address(mine), rank = cluster_ctarank(), count = cluster_nctarank();
  if (threadIdx.x == 0) mine[0] = 100 + rank;
  barrier_cluster_arrive();
  barrier_cluster_wait();
  const uint32_t next = (rank + 1) % count;
  if (threadIdx.x == 0) {
    st_shared_cluster(mapa(at + 16, next), rank);
    out[blockIdx.x * 4] = ld_shared_cluster<uint32_t>(mapa(at, next));
  }
  barrier_cluster_arrive();
  barrier_cluster_wait();
  if (threadIdx.x == 0) {
    out[blockIdx.x * 4 + 1] = mine[4];
    out[blockIdx.x * 4 + 2] = cluster_ctaid().x;
    out[blockIdx.x * 4 + 3] = count;
  }
}

// The first block copies for all, and waits for everyone to have taken it.
__global__ void multicast(const uint32_t* from, uint32_t* out) {
  auto* const shared = reinterpret_cast<uint32_t*>(dynamic_shared());
  const uint32_t at = shared_address(shared), full = at + 1024, taken = at + 1032;
  if (threadIdx.x == 0) {
    mbarrier_init(full, 1);
    mbarrier_init(taken, cluster_nctarank());
    fence_mbarrier_init();
    mbarrier_arrive_expect_tx(full, 128);
  }
  barrier_cluster_arrive();
  barrier_cluster_wait();
  if (threadIdx.x == 0 && cluster_ctarank() == 0) {
    cp_async_bulk_shared_global_multicast(at, from, 128, full,
                                          static_cast<uint16_t>((1u << cluster_nctarank()) - 1));
  }
  wait(full, 0);
  out[blockIdx.x * 32 + threadIdx.x] = shared[threadIdx.x];
  __syncthreads();
  if (threadIdx.x == 0) mbarrier_arrive(mapa(taken, 0));
  if (cluster_ctarank() == 0) wait(taken, 0);
}

__global__ void replace_and_copy(CUtensorMap map, CUtensorMap* global, const uint16_t* other, uint16_t* out) {
  auto* const scratch = reinterpret_cast<CUtensorMap*>(dynamic_shared());
  const uint32_t at = shared_address(dynamic_shared()) + 1024, barrier = at + 2048;
  *scratch = map;
  tensormap_replace_global_address(scratch, other);
  tensormap_replace_global_dim(scratch, 1, 2);
  tensormap_cp_fenceproxy(global, scratch);
  fence_proxy_tensormap_acquire(global);
  mbarrier_init(barrier, 1);
  mbarrier_arrive_expect_tx(barrier, 1024);
  cp_async_bulk_tensor_shared_global(at, global, {0, 0, 0}, barrier);
  wait(barrier, 0);
  for (int index = 0; index < 512; ++index)
    out[index] = reinterpret_cast<uint16_t*>(dynamic_shared() + 1024)[index];
}

__global__ void some_registers() {
  if (threadIdx.x < 96) setmaxnreg_dec(40);
}

}  // namespace

TEST_CASE("an mbarrier goes through its phases") {
  const Fresh fresh;
  const DeviceArray<Phases> out(1);
  REQUIRE_EQ(run({.block = 1, .shared = 16}, count_phases, out.data()), cudaSuccess);
  const Phases got = out.values()[0];
  CHECK_EQ(got.fresh_even, 0);
  CHECK_EQ(got.fresh_odd, 1);
  CHECK_EQ(got.half, 0);
  CHECK_EQ(got.full_even, 1);
  CHECK_EQ(got.full_odd, 0);
  CHECK_EQ(got.by_state, 1);
  CHECK_EQ(got.again, 1);
}

TEST_CASE("an mbarrier's misuse is reported") {
  const Fresh fresh;
  const auto report_of = [](Misuse how) {
    CHECK_EQ(run({.block = 1, .shared = 16}, misuse, how),
             how == Misuse::none ? cudaSuccess : cudaErrorLaunchFailure);
    return last_report();
  };
  const auto reports = [&](Misuse how, const char* text) {
    return report_of(how).find(text) != std::string::npos;
  };
  SUBCASE("none") {
    CHECK_EQ(report_of(Misuse::none), "");
  }
  SUBCASE("uninitialised") {
    CHECK(reports(Misuse::uninitialised, "was not initialised"));
  }
  SUBCASE("twice") {
    CHECK(reports(Misuse::twice, "was initialised before, hopper_test.cpp:"));
  }
  SUBCASE("too many") {
    CHECK(reports(Misuse::too_many, "2 arrivals where the phase lacks 1 of 1"));
  }
  SUBCASE("overwritten") {
    CHECK(reports(Misuse::overwritten, "was overwritten"));
  }
  SUBCASE("never") {
    CHECK(reports(Misuse::never, "lacks 1 of 1 arrivals and 0 bytes"));
  }
}

TEST_CASE("bulk copies arrive when they are waited for") {
  const Fresh fresh;
  std::vector<float> values;
  for (int index = 0; index < 32; ++index) values.push_back(static_cast<float>(index));
  const DeviceArray<float> from(values), to(32), early(32);
  REQUIRE_EQ(
      run({.shared = 2048}, there_and_back, static_cast<const float*>(from.data()), to.data(), early.data()),
      cudaSuccess);
  const auto got = to.values(), too_soon = early.values();
  for (size_t index = 0; index < 32; ++index) {
    CHECK_EQ(got[index], values[index] * 2);
    if (settings().seed % 2 == 0) CHECK(too_soon[index] != too_soon[index]);
  }
  settings().compute_capability = 80;
  CHECK_EQ(
      run({.shared = 2048}, there_and_back, static_cast<const float*>(from.data()), to.data(), early.data()),
      cudaErrorIllegalInstruction);
}

TEST_CASE("cp.async arrives on an mbarrier when it is complete") {
  for (uint64_t seed = 0; seed < 4; ++seed) {
    const Fresh fresh;
    settings().seed = seed;
    std::vector<int> values;
    for (int index = 0; index < 32; ++index) values.push_back(index);
    const DeviceArray<int> from(values), to(32);
    REQUIRE_EQ(run({.shared = 2048}, gather_by_cp_async, static_cast<const int*>(from.data()), to.data()),
               cudaSuccess);
    const auto got = to.values();
    for (int index = 0; index < 32; ++index) CHECK_EQ(got[index], 31 - index);
  }
}

TEST_CASE("a tensor copy lies in shared memory row by row, with zeros for what is outside") {
  const Fresh fresh;
  const auto got = box_in_shared({.box = {16, 4, 2}}, 56, -1, 2, 256);
  for (int z = 0; z < 2; ++z) {
    for (int y = 0; y < 4; ++y) {
      for (int x = 0; x < 16; ++x) CHECK_EQ(got[z * 64 + y * 16 + x], number_at(56 + x, y - 1, 2 + z));
    }
  }
}

TEST_CASE("element strides leave rows out") {
  const Fresh fresh;
  const auto got = box_in_shared({.box = {16, 7, 1}, .element_strides = {1, 3, 1}}, 0, 2, 1, 96);
  for (int y = 0; y < 3; ++y) {
    for (int x = 0; x < 16; ++x) CHECK_EQ(got[y * 16 + x], number_at(x, 2 + 3 * y, 1));
  }
}

// Where the programming guide's table of the 128-byte swizzle puts chunk c of row r: at c xor (r mod 8); with
// 64 bytes rows share lines in pairs, at c xor (r / 2 mod 4); with 32 bytes in fours, at c xor (r / 4 mod 2).
TEST_CASE("swizzles exchange 16-byte chunks") {
  const Fresh fresh;
  const auto check = [](CUtensorMapSwizzle swizzle, uint32_t chunks, uint32_t rows_a_line) {
    const auto got = box_in_shared({.box = {chunks * 8, 16, 1}, .swizzle = swizzle}, 0, 3, 1, chunks * 256);
    for (uint32_t row = 0; row < 16; ++row) {
      for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
        const uint32_t moved = chunk ^ (row / rows_a_line % chunks);
        CHECK_EQ(got[row * chunks * 8 + moved * 8], number_at(chunk * 8, 3 + row, 1));
        CHECK_EQ(got[row * chunks * 8 + moved * 8 + 7], number_at(chunk * 8 + 7, 3 + row, 1));
      }
    }
  };
  check(CU_TENSOR_MAP_SWIZZLE_128B, 8, 1);
  check(CU_TENSOR_MAP_SWIZZLE_64B, 4, 2);
  check(CU_TENSOR_MAP_SWIZZLE_32B, 2, 4);
}

TEST_CASE("a tensor store writes what is inside") {
  const Fresh fresh;
  const DeviceArray<uint16_t> from(volume()), to(volume());
  BoxCopy in = {.map = {}, .x = 8, .y = 20, .z = 0, .bytes = 1024},
          out = {.map = {}, .x = 40, .y = 22, .z = 2, .bytes = 1024};
  const Encoding encoding = {.box = {64, 8, 1}, .swizzle = CU_TENSOR_MAP_SWIZZLE_128B};
  REQUIRE_EQ(encode(in.map, from.data(), encoding), CUDA_SUCCESS);
  REQUIRE_EQ(encode(out.map, to.data(), encoding), CUDA_SUCCESS);
  REQUIRE_EQ(run({.block = 1, .shared = 17408}, move_box, in, out), cudaSuccess);
  const auto got = to.values();
  for (int z = 0; z < 3; ++z) {
    for (int y = 0; y < 24; ++y) {
      for (int x = 0; x < 64; ++x) {
        const bool written = z == 2 && y >= 22 && x >= 40;
        CHECK_EQ(got[z * 1536 + y * 64 + x], written ? number_at(x - 32, y - 2, 0) : number_at(x, y, z));
      }
    }
  }
}

TEST_CASE("tensor maps are checked when they are encoded") {
  const Fresh fresh;
  alignas(64) unsigned char memory[64];
  CUtensorMap map;
  CHECK_EQ(encode(map, memory, {}), CUDA_SUCCESS);
  CHECK_EQ(encode(map, memory + 8, {}), CUDA_ERROR_INVALID_VALUE);
  CHECK_EQ(encode(map, memory, {.row_stride = 136}), CUDA_ERROR_INVALID_VALUE);
  CHECK_EQ(encode(map, memory, {.box = {12, 8, 1}}), CUDA_ERROR_INVALID_VALUE);
  CHECK_EQ(encode(map, memory, {.box = {64, 257, 1}}), CUDA_ERROR_INVALID_VALUE);
  CHECK_EQ(encode(map, memory, {.box = {64, 8, 1}, .swizzle = CU_TENSOR_MAP_SWIZZLE_64B}),
           CUDA_ERROR_INVALID_VALUE);
  CHECK_EQ(encode(map, memory, {.element_strides = {1, 9, 1}}), CUDA_ERROR_INVALID_VALUE);
  void* function = nullptr;
  REQUIRE_EQ(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault),
             cudaSuccess);
  CHECK_EQ(function, reinterpret_cast<void*>(&cuTensorMapEncodeTiled));
}

TEST_CASE("a tensor map can be replaced on the device") {
  const Fresh fresh;
  const DeviceArray<uint16_t> data(volume()), other(volume()), out(512);
  const DeviceArray<CUtensorMap> global(1);
  REQUIRE_EQ(cudaMemset(other.data(), 7, 1536), cudaSuccess);
  CUtensorMap map;
  REQUIRE_EQ(encode(map, data.data(), {}), CUDA_SUCCESS);
  REQUIRE_EQ(run({.block = 1, .shared = 4096}, replace_and_copy, map, global.data(),
                 static_cast<const uint16_t*>(other.data()), out.data()),
             cudaSuccess);
  const auto got = out.values();
  for (int index = 0; index < 512; ++index) CHECK_EQ(got[index], index < 128 ? 0x0707 : 0);
}

TEST_CASE("blocks of a cluster reach each other's shared memory") {
  for (uint64_t seed = 0; seed < 4; ++seed) {
    const Fresh fresh;
    settings().seed = seed;
    const DeviceArray<uint32_t> out(32);
    REQUIRE_EQ(run({.grid = 8, .block = 64, .shared = 32, .cluster = 4}, share_ranks, out.data()),
               cudaSuccess);
    const auto got = out.values();
    for (uint32_t block = 0; block < 8; ++block) {
      CHECK_EQ(got[block * 4], 100 + (block + 1) % 4);
      CHECK_EQ(got[block * 4 + 1], (block + 3) % 4);
      CHECK_EQ(got[block * 4 + 2], block % 4);
      CHECK_EQ(got[block * 4 + 3], 4);
    }
  }
}

TEST_CASE("a multicast reaches the blocks of its mask, and remote arrivals their mbarrier") {
  for (uint64_t seed = 0; seed < 4; ++seed) {
    const Fresh fresh;
    settings().seed = seed;
    std::vector<uint32_t> values;
    for (uint32_t index = 0; index < 32; ++index) values.push_back(index * 3);
    const DeviceArray<uint32_t> from(values), out(128);
    REQUIRE_EQ(run({.grid = 4, .shared = 2048, .cluster = 2}, multicast,
                   static_cast<const uint32_t*>(from.data()), out.data()),
               cudaSuccess);
    const auto got = out.values();
    for (uint32_t index = 0; index < 128; ++index) CHECK_EQ(got[index], index % 32 * 3);
  }
}

TEST_CASE("setmaxnreg belongs to whole warpgroups") {
  const Fresh fresh;
  CHECK_NE(run({.block = 128}, some_registers), cudaSuccess);
  CHECK(reported("warp 3 left out setmaxnreg"));
}

}  // namespace simt::test
