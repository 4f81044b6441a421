// Warp collectives and barriers, against what CUDA's programming guide says of each.
#include "support.h"

namespace simt::test {
namespace {

constexpr unsigned kAll = 0xffffffffu;

struct Shuffles {
  int index[32], up[32], down[32], butterfly[32], narrow[32];
  uint64_t wide[32];
  float number[32];
};

__global__ void shuffle_all(Shuffles* out) {
  const unsigned lane = threadIdx.x;
  const int value = static_cast<int>(lane) * 10;
  out->index[lane] = __shfl_sync(kAll, value, 5);
  out->up[lane] = __shfl_up_sync(kAll, value, 3);
  out->down[lane] = __shfl_down_sync(kAll, value, 3);
  out->butterfly[lane] = __shfl_xor_sync(kAll, value, 16);
  out->narrow[lane] = __shfl_down_sync(kAll, value, 2, 8);
  out->wide[lane] = __shfl_sync(kAll, uint64_t{lane} << 40, 31 - static_cast<int>(lane));
  out->number[lane] = __shfl_xor_sync(kAll, static_cast<float>(lane) + 0.5f, 1);
}

struct Votes {
  unsigned ballot[32], match[32], sum[32];
  int any[32], all[32], least[32];
};

__global__ void vote_all(Votes* out) {
  const unsigned lane = threadIdx.x;
  out->ballot[lane] = __ballot_sync(kAll, lane % 3 == 0);
  out->any[lane] = __any_sync(kAll, lane == 31);
  out->all[lane] = __all_sync(kAll, lane < 31);
  out->match[lane] = __match_any_sync(kAll, lane % 4);
  out->sum[lane] = __reduce_add_sync(kAll, lane);
  out->least[lane] = __reduce_min_sync(kAll, static_cast<int>(lane) - 20);
}

// Even and odd lanes meet apart from each other, in different branches.
__global__ void halves(unsigned* out) {
  const unsigned lane = threadIdx.x;
  if (lane % 2 == 0) {
    out[lane] = __reduce_add_sync(0x55555555u, lane);
  } else {
    out[lane] = __reduce_add_sync(0xaaaaaaaau, lane);
  }
}

__global__ void reverse_through_shared(const int* in, int* out) {
  auto* const shared = reinterpret_cast<int*>(dynamic_shared());
  shared[threadIdx.x] = in[blockIdx.x * blockDim.x + threadIdx.x];
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

struct Counts {
  int count[96], any[96], all[96];
};

__global__ void count_predicates(Counts* out) {
  const unsigned rank = threadIdx.x + threadIdx.y * blockDim.x;
  out->count[rank] = __syncthreads_count(rank % 2 == 0);
  out->any[rank] = __syncthreads_or(rank == 95);
  out->all[rank] = __syncthreads_and(rank != 95);
}

// Warp 0 produces, warps 1 and 2 consume; two named barriers hand the buffer back and forth.
__global__ void pipe(int* out, int rounds) {
  constexpr unsigned kFull = 1, kEmpty = 2, kThreads = 96;
  auto* const buffer = reinterpret_cast<int*>(dynamic_shared());
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int round = 0; round < rounds; ++round) {
    if (warp == 0) {
      if (round > 0) named_barrier_sync(kEmpty, kThreads);
      buffer[lane] = round * 100 + static_cast<int>(lane);
      named_barrier_arrive(kFull, kThreads);
    } else {
      named_barrier_sync(kFull, kThreads);
      out[(round * 2 + static_cast<int>(warp) - 1) * 32 + static_cast<int>(lane)] = buffer[lane];
      if (round + 1 < rounds) named_barrier_arrive(kEmpty, kThreads);
    }
  }
}

}  // namespace

TEST_CASE("shuffles read the lane that their definition names") {
  const Fresh fresh;
  const DeviceArray<Shuffles> out(1);
  REQUIRE_EQ(run({}, shuffle_all, out.data()), cudaSuccess);
  const Shuffles got = out.values()[0];
  for (int lane = 0; lane < 32; ++lane) {
    CHECK_EQ(got.index[lane], 50);
    CHECK_EQ(got.up[lane], (lane < 3 ? lane : lane - 3) * 10);
    CHECK_EQ(got.down[lane], (lane > 28 ? lane : lane + 3) * 10);
    CHECK_EQ(got.butterfly[lane], (lane ^ 16) * 10);
    CHECK_EQ(got.narrow[lane], (lane % 8 < 6 ? lane + 2 : lane) * 10);
    CHECK_EQ(got.wide[lane], static_cast<uint64_t>(31 - lane) << 40);
    CHECK_EQ(got.number[lane], static_cast<float>(lane ^ 1) + 0.5f);
  }
}

TEST_CASE("votes, matches and reductions see every lane") {
  const Fresh fresh;
  const DeviceArray<Votes> out(1);
  REQUIRE_EQ(run({}, vote_all, out.data()), cudaSuccess);
  const Votes got = out.values()[0];
  for (unsigned lane = 0; lane < 32; ++lane) {
    CHECK_EQ(got.ballot[lane], 0x49249249u);
    CHECK_EQ(got.any[lane], 1);
    CHECK_EQ(got.all[lane], 0);
    CHECK_EQ(got.match[lane], 0x11111111u << lane % 4);
    CHECK_EQ(got.sum[lane], 496u);
    CHECK_EQ(got.least[lane], -20);
  }
}

TEST_CASE("disjoint masks of a warp meet independently") {
  const Fresh fresh;
  const DeviceArray<unsigned> out(32);
  REQUIRE_EQ(run({}, halves, out.data()), cudaSuccess);
  const auto got = out.values();
  for (unsigned lane = 0; lane < 32; ++lane) CHECK_EQ(got[lane], lane % 2 == 0 ? 240u : 256u);
}

TEST_CASE("a barrier orders shared memory, in every schedule") {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const Fresh fresh;
    settings().seed = seed;
    std::vector<int> values(4 * 100);
    for (size_t index = 0; index < values.size(); ++index) values[index] = static_cast<int>(index);
    const DeviceArray<int> in(values), out(values.size());
    REQUIRE_EQ(run({.grid = 4, .block = 100, .shared = 400}, reverse_through_shared, in.data(), out.data()),
               cudaSuccess);
    const auto got = out.values();
    for (int index = 0; index < 400; ++index) CHECK_EQ(got[index], index / 100 * 100 + 99 - index % 100);
  }
}

TEST_CASE("barriers count predicates") {
  const Fresh fresh;
  const DeviceArray<Counts> out(1);
  REQUIRE_EQ(run({.block = dim3(8, 12)}, count_predicates, out.data()), cudaSuccess);
  const Counts got = out.values()[0];
  for (int rank = 0; rank < 96; ++rank) {
    CHECK_EQ(got.count[rank], 48);
    CHECK_EQ(got.any[rank], 1);
    CHECK_EQ(got.all[rank], 0);
  }
}

TEST_CASE("named barriers hand a buffer from producers to consumers") {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const Fresh fresh;
    settings().seed = seed;
    constexpr int kRounds = 5;
    const DeviceArray<int> out(kRounds * 64);
    REQUIRE_EQ(run({.block = 96, .shared = 128}, pipe, out.data(), kRounds), cudaSuccess);
    const auto got = out.values();
    for (int index = 0; index < kRounds * 64; ++index) CHECK_EQ(got[index], index / 64 * 100 + index % 32);
  }
}

}  // namespace simt::test
