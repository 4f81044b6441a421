// Routing [T, E'] logits to K experts a token, and the way back. All in float32.
#pragma once

#include <array>
#include <cstdint>

#include "ops/tensor.h"

namespace moe {

enum class Score : uint8_t { softmax, sigmoid, sqrtsoftplus, sparsemixer };
enum class SoftmaxOver : uint8_t { all, selected };
enum class GroupScore : uint8_t { max, top2sum };

inline constexpr std::array<const char*, 4> kScoreNames = {"softmax", "sigmoid", "sqrtsoftplus",
                                                           "sparsemixer"};
inline constexpr std::array<const char*, 2> kSoftmaxOverNames = {"all", "selected"};
inline constexpr std::array<const char*, 2> kGroupScoreNames = {"max", "top2sum"};

// E' logits: E experts and, after them, those that return their input unchanged.
struct RouterConfig {
  int top_k = 1;
  Score score = Score::softmax;
  SoftmaxOver softmax_over = SoftmaxOver::all;
  float jitter_eps = 0;  // sparsemixer
  int group_count = 0;   // none
  int group_top = 0;
  GroupScore group_score = GroupScore::max;
  float group_mask_value = 0;
  bool normalize = false;
  float normalize_eps = 0;
  float normalize_min = 0;
  float scale = 1;
  int capacity = 0;  // rows per expert; none
  int identity_experts = 0;
};

// logits = x · weightᵀ + bias where x is given, then scores, top-k (ties to the lower id), weights,
// counts and capacity.
struct Route {
  RouterConfig router;
  Tensor x;               // [T, H], optional: without it logits are an input
  Tensor weight;          // [E', H]
  Tensor bias;            // [E'], optional
  Tensor logits;          // float32 [T, E']
  Tensor indices;         // int32 [T, K], out, by descending score
  Tensor weights;         // float32 [T, K], out
  Tensor selection_bias;  // float32 [E'], optional: added to the scores when choosing
  Tensor expert_scale;    // [E], optional: multiplies the weights
  Tensor counts;          // int32 [E'], out, before capacity
  Tensor dropped;         // int32 [T, K], out, 1 where a slot was dropped; present with a capacity
};

// d_logits from the gradient of the weights (and an extra one of the logits), then dx, d_weight and d_bias
// where asked.
struct RouteBackward {
  RouterConfig router;
  Tensor logits, indices;  // as Route left them
  Tensor dropped;          // optional
  Tensor expert_scale;     // [E], optional
  Tensor d_weights;        // float32 [T, K], optional
  Tensor extra_d_logits;   // float32 [T, E'], optional
  Tensor x, weight;        // [T, H], [E', H]; needed for d_weight and dx
  Tensor d_logits;         // float32 [T, E'], out
  Tensor dx;               // [T, H], out, optional
  Tensor d_weight;         // [E', H], out, optional
  Tensor d_bias;           // [E'], out, optional
  Tensor d_expert_scale;   // [E], out, optional
  bool accumulate_dx = false, accumulate_d_weight = false, accumulate_d_bias = false,
       accumulate_d_expert_scale = false;
};

// Losses that keep a router healthy, and their gradient to the logits. Shares p of a token are its softmax,
// or its scores divided by their sum where each is a function of one logit.
struct RouterLoss {
  Score score = Score::softmax;
  Tensor logits, indices;   // float32 [T, E'], int32 [T, K]
  Tensor mask;              // int32 [T], optional: tokens that are 0 (padding) count for nothing
  int sequence_length = 0;  // tokens are balanced in runs of so many, or (0) all together
  // Coefficients: of E'·Σ_e f_e·P_e with f_e the share of slots and P_e the mean of p_e, averaged over the
  // runs, and of the mean square of ln Σ exp z.
  float load_balance = 0, z = 0;
  Tensor losses;    // float32 [2], out: the two, with their coefficients
  Tensor d_logits;  // float32 [T, E'], out
};

// selection_bias[e] += rate · sign(mean of counts - counts[e])
struct UpdateSelectionBias {
  Tensor selection_bias, counts;  // float32 [E'], int32 [E']
  float rate = 0;
};

}  // namespace moe
