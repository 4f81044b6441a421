// Bound by the bytes of the logits and the numbers that are drawn again for them, twice.
#include "cuda/router_load.h"

#include "cuda/device/ptx.cuh"
#include "cuda/device/route_token.cuh"
#include "cuda/device/token_sums.cuh"
#include "cuda/expert_sums.h"
#include "ops/noise.h"

namespace moe::cuda {
namespace {

// The tokens' noisy logits, and what they were made of.
struct NoisyTokens {
  const float* logits;        // [T, E']
  const float* noise_logits;  // [T, E']
  RouterNoise noise;
  int64_t experts;
  int32_t top_k;
  int64_t tokens_per_row;  // that share their numbers

  // Words of shared memory of a warp: E' ranks, and the chosen.
  __host__ __device__ int64_t words() const { return experts + top_k + 1; }
};

// The K + 1 best of one token, in its warp's shared memory.
struct Ranking {
  const int32_t* ranks;  // INT32_MIN of those
  int32_t last, next;    // in places K and K + 1

  // Whom an expert has to beat to be among the K best.
  __device__ int32_t rival_of(int64_t e) const { return ranks[e] == INT32_MIN && e != next ? next : last; }
};

__device__ Ranking rank_token(const NoisyTokens& tokens, int64_t token) {
  auto* ranks = reinterpret_cast<int32_t*>(dynamic_shared()) + threadIdx.x / kWarp * tokens.words();
  int32_t* chosen = ranks + tokens.experts;
  for (int64_t e = lane_id(); e < tokens.experts; e += kWarp)
    ranks[e] = rank_of(tokens.logits[token * tokens.experts + e]);
  __syncwarp();
  select_top(ranks, tokens.experts, tokens.top_k + 1, chosen);
  return {ranks, chosen[tokens.top_k - 1], chosen[tokens.top_k]};
}

// The probability that an expert is among the K best again when its own noise is drawn anew, and its
// derivatives to the noisy logit of e (minus that to the rival's) and to e's noise logit.
struct Chance {
  float probability, to_logit, to_noise_logit;
};

// One of four words, chosen in registers.
__device__ uint32_t pick(const noise::Words& words, int64_t place) {
  const uint32_t even = (place & 2) != 0 ? words[2] : words[0], odd = (place & 2) != 0 ? words[3] : words[1];
  return (place & 1) != 0 ? odd : even;
}

__device__ Chance chance_of(const NoisyTokens& tokens, int64_t token, int64_t e, int32_t rival) {
  const int64_t first = token * tokens.experts;
  const float lead = tokens.logits[first + e] - tokens.logits[first + rival];
  const float noise_logit = tokens.noise_logits[first + e];
  const float deviation = tokens.noise.strength * softplus(noise_logit);
  if (deviation == 0) return {lead > 0 ? 1.0f : 0.0f, 0.0f, 0.0f};
  const noise::Words words =
      noise::words_of(tokens.noise.seed, tokens.noise.step,
                      static_cast<uint32_t>(token / tokens.tokens_per_row), static_cast<uint32_t>(e / 4));
  const float distance = lead / deviation - noise::normal(pick(words, e));
  constexpr float kRootOfHalf = 0.70710678f, kDensityAtZero = 0.39894228f;
  const float slope = kDensityAtZero * expf(-0.5f * distance * distance) / deviation;
  const float to_noise = -slope * lead / deviation * (tokens.noise.strength * sigmoid(noise_logit));
  return {0.5f * erfcf(-distance * kRootOfHalf), slope, to_noise};
}

// What a token adds to the load of every expert.
struct ChanceTerm {
  NoisyTokens tokens;

  __device__ Ranking begin(int64_t token) const { return rank_token(tokens, token); }
  __device__ float at(const Ranking& ranking, int64_t token, int64_t e) const {
    return chance_of(tokens, token, e, ranking.rival_of(e)).probability;
  }
};

struct LoadGradients {
  const float* slopes;    // [E'], of the loss to the loads
  float* d_logits;        // [T, E'], added to
  float* d_noise_logits;  // [T, E']
};

// A warp for each token.
__global__ void __launch_bounds__(kSumWarps* kWarp)
    carry_load(NoisyTokens tokens, TokenRuns batch, LoadGradients gradients) {
  for (int64_t t = warp_of_grid(); t < batch.length; t += warps_of_grid()) {
    if (!batch.counts(t)) continue;
    const Ranking ranking = rank_token(tokens, t);
    float* d_logits = gradients.d_logits + t * tokens.experts;
    float to_last = 0, to_next = 0;
    for (int64_t e = lane_id(); e < tokens.experts; e += kWarp) {
      const int32_t rival = ranking.rival_of(e);
      const Chance chance = chance_of(tokens, t, e, rival);
      const float flow = gradients.slopes[e] * chance.to_logit;
      d_logits[e] += flow;
      (rival == ranking.next ? to_next : to_last) += flow;
      gradients.d_noise_logits[t * tokens.experts + e] = gradients.slopes[e] * chance.to_noise_logit;
    }
    to_last = warp_sum(to_last);
    to_next = warp_sum(to_next);
    __syncwarp();
    if (lane_id() == 0) {
      d_logits[ranking.last] -= to_last;
      d_logits[ranking.next] -= to_next;
    }
    __syncwarp();
  }
}

}  // namespace

void add_load_loss(const RouterLoss& op, const Context& context) {
  const int64_t T = op.logits.dim(0), E = op.logits.dim(1), K = op.router.top_k;
  // All of them where every expert is chosen anyway.
  if (K >= E) return;
  const NoisyTokens tokens = {.logits = op.logits.f32(),
                              .noise_logits = op.noise_logits.f32(),
                              .noise = op.router.noise,
                              .experts = E,
                              .top_k = static_cast<int32_t>(K),
                              .tokens_per_row = op.router.by_sequence ? op.router.sequence_length : 1};
  const TokenRuns batch = {.count = 1, .length = T, .experts = E, .mask = op.mask ? op.mask.i32() : nullptr};
  const auto warp_bytes = static_cast<size_t>(tokens.words()) * sizeof(int32_t);
  const Workspace loads = sum_over_tokens(ChanceTerm{tokens}, batch, warp_bytes, context);
  const Workspace slopes = context.workspace(1, E, DType::float32);
  squared_variation({.sums = loads.tensor.f32(),
                     .experts = E,
                     .coefficient = op.load,
                     .loss = op.losses.f32() + 3,
                     .slopes = slopes.tensor.f32()},
                    context);
  const LoadGradients gradients = {.slopes = slopes.tensor.f32(),
                                   .d_logits = op.d_logits.f32(),
                                   .d_noise_logits = op.d_noise_logits.f32()};
  launch(context, "carry_load", carry_load,
         {.blocks = {blocks_for(T, kSumWarps)},
          .threads = {kSumWarps * kWarp},
          .shared_bytes = kSumWarps * warp_bytes},
         tokens, batch, gradients);
}

}  // namespace moe::cuda
