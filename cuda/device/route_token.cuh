// The router for one token, by one warp: choice, scores, weights, and the gradient back to the logits. The
// twin of cpu/isa/route_token.h.
#pragma once

#include "cuda/device/scores.cuh"
#include "cuda/device/warp.cuh"
#include "ops/router.h"

namespace moe::cuda {

// A warp's own shared memory: E' ranks, and K slots of each kind.
struct TokenScratch {
  int32_t* ranks;    // [E']
  int32_t* chosen;   // [K]
  float* scores;     // [K]
  float* gradients;  // [K]
  float* groups;     // [groups]

  static __host__ __device__ int64_t words(int64_t experts, int64_t top_k, int64_t groups) {
    return experts + 3 * top_k + groups;
  }
  static __device__ TokenScratch at(float* memory, int64_t experts, int64_t top_k) {
    auto* words = reinterpret_cast<int32_t*>(memory);
    return {words, words + experts, memory + experts + top_k, memory + experts + 2 * top_k,
            memory + experts + 3 * top_k};
  }
};

// One token's place in the arrays that all share.
struct TokenArgs {
  RouterConfig router;
  int64_t experts;
  const float* logits;          // [E']
  const float* selection_bias;  // [E'], or null
};

__device__ inline float largest_logit(const TokenArgs& args) {
  float largest = -INFINITY;
  for (int64_t e = lane_id(); e < args.experts; e += kWarp) largest = fmaxf(largest, args.logits[e]);
  return warp_max(largest);
}

__device__ inline float sum_of_exp(const TokenArgs& args, float shift) {
  float sum = 0;
  for (int64_t e = lane_id(); e < args.experts; e += kWarp) sum += expf(args.logits[e] - shift);
  return warp_sum(sum);
}

// The places of the `top` largest of `count` ranks in descending order, ties to the lower place. The ranks
// chosen are lost.
__device__ inline void select_top(int32_t* ranks, int64_t count, int top, int32_t* chosen) {
  for (int k = 0; k < top; ++k) {
    int64_t best = INT64_MIN;
    for (int64_t i = lane_id(); i < count; i += kWarp) {
      const int64_t key = (int64_t{ranks[i]} << 32) | (UINT32_MAX - static_cast<uint32_t>(i));
      best = key > best ? key : best;
    }
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      const int64_t other = __shfl_xor_sync(kAllLanes, best, offset);
      best = other > best ? other : best;
    }
    const auto place = static_cast<int32_t>(UINT32_MAX - static_cast<uint32_t>(best));
    if (lane_id() == 0) {
      chosen[k] = place;
      ranks[place] = INT32_MIN;
    }
    __syncwarp();
  }
}

// Ranks of members of all but the best groups become that of the mask.
__device__ inline void mask_groups(const TokenArgs& args, const TokenScratch& scratch) {
  const RouterConfig& router = args.router;
  const int groups = router.group_count;
  const auto size = static_cast<int>(args.experts / groups);
  const auto value_of = [&](int64_t e) { return __int_as_float(scratch.ranks[e]); };
  for (int g = lane_id(); g < groups; g += kWarp) {
    float first = value_of(int64_t{g} * size), second = -INFINITY;
    for (int i = 1; i < size; ++i) {
      const float value = value_of(int64_t{g} * size + i);
      second = value > first ? first : value > second ? value : second;
      first = value > first ? value : first;
    }
    scratch.groups[g] = router.group_score == GroupScore::max ? first : first + second;
  }
  __syncwarp();
  auto* ranks = reinterpret_cast<int32_t*>(scratch.groups);
  for (int g = lane_id(); g < groups; g += kWarp) ranks[g] = rank_of(scratch.groups[g]);
  __syncwarp();
  // One by one, for there may be more groups than slots. A group that is taken has the lowest rank of all.
  for (int i = 0; i < router.group_top; ++i) select_top(ranks, groups, 1, scratch.chosen);
  for (int64_t e = lane_id(); e < args.experts; e += kWarp) {
    if (ranks[e / size] != INT32_MIN) scratch.ranks[e] = __float_as_int(router.group_mask_value);
  }
  __syncwarp();
}

// Values of all experts that the choice is made by, then their ranks.
__device__ inline void rank_experts(const TokenArgs& args, const TokenScratch& scratch) {
  const RouterConfig& router = args.router;
  const bool by_logits = args.selection_bias == nullptr && router.group_count == 0;
  const bool softmax =
      !by_logits && router.score == Score::softmax && router.softmax_over == SoftmaxOver::all;
  const float largest = softmax ? largest_logit(args) : 0.0f;
  const float sum = softmax ? sum_of_exp(args, largest) : 1.0f;
  for (int64_t e = lane_id(); e < args.experts; e += kWarp) {
    const float z = args.logits[e];
    float value = z;
    if (!by_logits) {
      value = softmax ? expf(z - largest) / sum : elementwise_score(router.score, z);
      if (args.selection_bias != nullptr) value += args.selection_bias[e];
    }
    scratch.ranks[e] = __float_as_int(value);
  }
  __syncwarp();
  if (router.group_count > 0) mask_groups(args, scratch);
  for (int64_t e = lane_id(); e < args.experts; e += kWarp)
    scratch.ranks[e] = rank_of(__int_as_float(scratch.ranks[e]));
  __syncwarp();
}

// The K experts of the token, in scratch.chosen; `given` where the choice is.
__device__ inline void choose(const TokenArgs& args, const TokenScratch& scratch, const int32_t* given) {
  const RouterConfig& router = args.router;
  if (router.choice == Choice::best) {
    rank_experts(args, scratch);
    select_top(scratch.ranks, args.experts, router.top_k, scratch.chosen);
    return;
  }
  for (int k = lane_id(); k < router.top_k; k += kWarp) scratch.chosen[k] = given == nullptr ? k : given[k];
  __syncwarp();
}

// Whether sparsemixer's choice k leaves expert e out of its softmax.
__device__ inline bool is_sparse_rival(const TokenArgs& args, const TokenScratch& scratch, int k, int64_t e) {
  if (k == 1 && e == scratch.chosen[0]) return false;
  const float largest = args.logits[scratch.chosen[k]], z = args.logits[e];
  return !((largest - z) / fmaxf(fabsf(z), largest) > 2.0f * args.router.jitter_eps);
}

// Scores of the chosen experts, the same in both directions.
__device__ inline void chosen_scores(const TokenArgs& args, const TokenScratch& scratch) {
  const RouterConfig& router = args.router;
  const int K = router.top_k;
  if (router.score == Score::sparsemixer) {
    for (int k = 0; k < K; ++k) {
      float sum = 0;
      for (int64_t e = lane_id(); e < args.experts; e += kWarp) {
        if (is_sparse_rival(args, scratch, k, e))
          sum += expf(args.logits[e] - args.logits[scratch.chosen[k]]);
      }
      sum = warp_sum(sum);
      if (lane_id() == 0) scratch.scores[k] = 1.0f / sum;
    }
    __syncwarp();
    return;
  }
  if (is_elementwise(router.score)) {
    for (int k = lane_id(); k < K; k += kWarp)
      scratch.scores[k] = elementwise_score(router.score, args.logits[scratch.chosen[k]]);
    __syncwarp();
    return;
  }
  const bool over_all = router.softmax_over == SoftmaxOver::all;
  float shift = -INFINITY;
  for (int k = lane_id(); k < K; k += kWarp) shift = fmaxf(shift, args.logits[scratch.chosen[k]]);
  shift = over_all ? largest_logit(args) : warp_max(shift);
  float sum = 0;
  for (int k = lane_id(); k < K; k += kWarp) {
    scratch.scores[k] = expf(args.logits[scratch.chosen[k]] - shift);
    sum += scratch.scores[k];
  }
  sum = over_all ? sum_of_exp(args, shift) : warp_sum(sum);
  for (int k = lane_id(); k < K; k += kWarp) scratch.scores[k] /= sum;
  __syncwarp();
}

// The slots of a token that are taken: all K, or the first whose probabilities reach top-p.
__device__ inline int taken_slots(const RouterConfig& router, const float* scores) {
  if (router.top_p <= 0) return router.top_k;
  float sum = 0;
  for (int k = 0; k < router.top_k; ++k) {
    sum += scores[k];
    if (sum >= router.top_p) return k + 1;
  }
  return router.top_k;
}

struct Divisor {
  float value;
  bool depends_on_scores;
};

__device__ inline Divisor divisor_of(const RouterConfig& router, const float* scores, int taken) {
  if (!router.normalize) return {1.0f, false};
  float sum = router.normalize_eps;
  for (int k = 0; k < taken; ++k) sum += scores[k];
  return sum < router.normalize_min ? Divisor{router.normalize_min, false} : Divisor{sum, true};
}

// Gradients of the weights, in scratch.gradients, become gradients of the scores there: w = scale · s / D ⇒
// ds_k = scale · (dw_k - Σ_j dw_j s_j / D) / D where D is the sum of the scores, scale · dw_k / D where it is
// a constant.
__device__ inline void weights_backward(const RouterConfig& router, const TokenScratch& scratch) {
  const int taken = taken_slots(router, scratch.scores);
  const Divisor divisor = divisor_of(router, scratch.scores, taken);
  float mean = 0;
  for (int k = 0; k < taken && divisor.depends_on_scores; ++k)
    mean += scratch.gradients[k] * (scratch.scores[k] / divisor.value);
  __syncwarp();
  for (int k = lane_id(); k < router.top_k; k += kWarp) {
    const float gradient = router.scale * ((scratch.gradients[k] - mean) / divisor.value);
    scratch.gradients[k] = k < taken ? gradient : 0.0f;
  }
  __syncwarp();
}

// Adds the gradient of the scores, carried to the logits, to d_logits [E'].
__device__ inline void scores_backward(const TokenArgs& args, const TokenScratch& scratch, float* d_logits) {
  const RouterConfig& router = args.router;
  const int K = router.top_k;
  if (is_elementwise(router.score)) {
    // One lane: given experts may repeat.
    for (int k = 0; k < K && lane_id() == 0; ++k) {
      const int32_t e = scratch.chosen[k];
      d_logits[e] +=
          scratch.gradients[k] * elementwise_slope(router.score, args.logits[e], scratch.scores[k]);
    }
    return;
  }
  const bool sparse = router.score == Score::sparsemixer;
  float mean = 0;
  for (int k = 0; k < K; ++k) {
    const float flow = scratch.gradients[k] * scratch.scores[k];
    mean += flow;
    if (lane_id() == 0) d_logits[scratch.chosen[k]] += flow;
    __syncwarp();
    for (int64_t e = lane_id(); sparse && e < args.experts; e += kWarp) {
      if (!is_sparse_rival(args, scratch, k, e)) continue;
      d_logits[e] -= flow * (expf(args.logits[e] - args.logits[scratch.chosen[k]]) * scratch.scores[k]);
    }
    __syncwarp();
  }
  if (sparse) return;
  if (router.softmax_over == SoftmaxOver::selected) {
    for (int k = 0; k < K && lane_id() == 0; ++k) d_logits[scratch.chosen[k]] -= mean * scratch.scores[k];
    return;
  }
  const float shift = largest_logit(args);
  const float factor = -mean / sum_of_exp(args, shift);
  for (int64_t e = lane_id(); e < args.experts; e += kWarp)
    d_logits[e] = fmaf(expf(args.logits[e] - shift), factor, d_logits[e]);
}

}  // namespace moe::cuda
