// What the router makes of every token's logits: its experts, their weights and the counts.
#pragma once

#include "cuda/device/elements.cuh"
#include "cuda/device/report.cuh"
#include "cuda/device/route_token.cuh"

namespace moe::cuda {

// What both directions hand to every warp.
struct Tokens {
  RouterConfig router;
  int64_t count, experts;
  const float* logits;
  const float* selection_bias;  // or null
  const int32_t* mask;          // or null
  const void* expert_scale;     // or null
  DType expert_scale_dtype;
};

struct Outcome {
  const int32_t* given;  // or null
  int32_t* indices;
  float* weights;
  int32_t* dropped;  // or null
  int32_t* counts;   // [E'], added to; or null
  FailureReport bad_index;
};

// Identity experts, the last ids, have a scale of 1.
__device__ inline float scale_of(const Tokens& tokens, int32_t expert) {
  if (tokens.expert_scale == nullptr || expert >= tokens.experts - tokens.router.identity_experts)
    return 1.0f;
  return load_as(tokens.expert_scale_dtype, tokens.expert_scale, expert);
}

// Token t, by one warp.
__device__ inline void route_token(const TokenArgs& args, const Tokens& tokens, const Outcome& outcome,
                                   int64_t t, const TokenScratch& scratch) {
  const RouterConfig& router = tokens.router;
  const int K = router.top_k;
  choose(args, scratch, outcome.given == nullptr ? nullptr : outcome.given + t * K);
  for (int k = lane_id(); k < K; k += kWarp) {
    const int32_t e = scratch.chosen[k];
    if (e >= 0 && e < tokens.experts) continue;
    outcome.bad_index(e, 0, static_cast<int32_t>(tokens.experts));
    scratch.chosen[k] = 0;
  }
  __syncwarp();
  chosen_scores(args, scratch);
  const int kept = taken_slots(router, scratch.scores);
  const float divisor = divisor_of(router, scratch.scores, kept).value;
  const bool padding = tokens.mask != nullptr && tokens.mask[t] == 0;
  const int taken = padding ? 0 : kept;
  for (int k = lane_id(); k < K; k += kWarp) {
    const int32_t e = scratch.chosen[k];
    outcome.indices[t * K + k] = e;
    outcome.weights[t * K + k] =
        k < taken ? scale_of(tokens, e) * (router.scale * (scratch.scores[k] / divisor)) : 0.0f;
    if (outcome.dropped != nullptr)
      outcome.dropped[t * K + k] = static_cast<int32_t>(k < taken ? SlotFate::served : SlotFate::untaken);
    if (outcome.counts != nullptr && k < taken) atomicAdd(&outcome.counts[e], 1);
  }
  __syncwarp();
}

}  // namespace moe::cuda
