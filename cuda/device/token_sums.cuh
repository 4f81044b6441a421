// Sums over tokens of one number for each expert, in an order that depends on nothing but the tokens.
//
// A warp adds the terms of a chunk of tokens, each lane for its own experts; then the chunks of a run are
// added in their order.
#pragma once

#include "cuda/device/warp.cuh"
#include "cuda/expert_sums.h"
#include "cuda/launch.h"

namespace moe::cuda {

inline constexpr int kSumWarps = 4;
inline constexpr int kTokensOfChunk = 32;

// Runs of tokens that are summed apart, and who counts.
struct TokenRuns {
  int64_t count, length;  // runs, tokens of each
  int64_t experts;        // E'
  const int32_t* mask;    // or null

  __device__ bool counts(int64_t token) const { return mask == nullptr || mask[token] != 0; }
  __host__ __device__ int64_t chunks() const { return (length + kTokensOfChunk - 1) / kTokensOfChunk; }
};

// Term: `begin(t)`, by a whole warp, says what `at(begun, t, e)` needs.
template <class Term>
__global__ void __launch_bounds__(kSumWarps* kWarp) add_terms(Term term, TokenRuns runs, float* partials) {
  for (int64_t i = warp_of_grid(); i < runs.count * runs.chunks(); i += warps_of_grid()) {
    float* sums = partials + i * runs.experts;
    for (int64_t e = lane_id(); e < runs.experts; e += kWarp) sums[e] = 0;
    const int64_t run = i / runs.chunks(), first = run * runs.length + i % runs.chunks() * kTokensOfChunk;
    for (int64_t t = first; t < first + kTokensOfChunk && t < (run + 1) * runs.length; ++t) {
      if (!runs.counts(t)) continue;
      const auto begun = term.begin(t);
      for (int64_t e = lane_id(); e < runs.experts; e += kWarp) sums[e] += term.at(begun, t, e);
      __syncwarp();
    }
  }
}

// [runs, E']: the sums of each run. A warp of Term may use so many bytes of the block's shared memory.
template <class Term>
Workspace sum_over_tokens(const Term& term, const TokenRuns& runs, size_t warp_bytes,
                          const Context& context) {
  const int64_t chunks = runs.count * runs.chunks();
  const Workspace partials = context.workspace(chunks, runs.experts, DType::float32);
  launch(context, "add_terms", add_terms<Term>,
         {.blocks = {blocks_for(chunks, kSumWarps)},
          .threads = {kSumWarps * kWarp},
          .shared_bytes = kSumWarps * warp_bytes},
         term, runs, partials.tensor.f32());
  return add_chunks(partials.tensor, runs.count, context);
}

}  // namespace moe::cuda
