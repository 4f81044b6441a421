// Routing [T, E'] logits to K experts a token, and the way back. All in float32.
//
// In this order: logits, their mean over a sequence, noise, scores, choice, weights, then who is dropped.
#pragma once

#include <array>
#include <cstdint>

#include "ops/tensor.h"

namespace moe {

enum class Score : uint8_t { softmax, sigmoid, sqrtsoftplus, identity, sparsemixer };
enum class SoftmaxOver : uint8_t { all, selected };
enum class GroupScore : uint8_t { max, top2sum };
// Which experts a token has slots for: the best K, all of them in the order of their ids, or given ones.
enum class Choice : uint8_t { best, all, given };
enum class DropPolicy : uint8_t { position, probability };
enum class NoiseKind : uint8_t { none, jitter, gumbel, noisy_top_k };

inline constexpr std::array<const char*, 5> kScoreNames = {"softmax", "sigmoid", "sqrtsoftplus", "identity",
                                                           "sparsemixer"};
inline constexpr std::array<const char*, 2> kSoftmaxOverNames = {"all", "selected"};
inline constexpr std::array<const char*, 2> kGroupScoreNames = {"max", "top2sum"};
inline constexpr std::array<const char*, 3> kChoiceNames = {"best", "all", "given"};
inline constexpr std::array<const char*, 2> kDropPolicyNames = {"position", "probability"};
inline constexpr std::array<const char*, 4> kNoiseKindNames = {"none", "jitter", "gumbel", "noisyTopK"};

// What `dropped` says of a slot. Only a served one has a row of its own.
enum class SlotFate : int32_t {
  served,
  over_capacity,
  untaken,   // beyond top-p, or the slot of a padding token
  residual,  // over capacity, as all of its token's: it returns the token unchanged
};

// jitter: x · (1 + strength·(2u - 1)) for the router alone (Switch, arXiv 2101.03961). gumbel: z +
// strength·g. noisy_top_k: z + strength·softplus(noise logit)·n (Shazeer 2017, arXiv 1701.06538).
struct RouterNoise {
  NoiseKind kind = NoiseKind::none;
  float strength = 0;
  uint64_t seed = 0, step = 0;
};

// At most so many rows for an expert in each run of tokens: the batch, or each sequence.
struct Capacity {
  int rows_per_expert = 0;  // none
  bool by_sequence = false;
  DropPolicy policy = DropPolicy::position;
  // A token none of whose slots is served passes unchanged, instead of as zeros.
  bool residual = false;
};

// E' logits: E experts and, after them, those that return their input unchanged.
struct RouterConfig {
  int top_k = 1;
  Choice choice = Choice::best;
  Score score = Score::softmax;
  SoftmaxOver softmax_over = SoftmaxOver::all;
  float jitter_eps = 0;  // sparsemixer
  int group_count = 0;   // none
  int group_top = 0;
  GroupScore group_score = GroupScore::max;
  float group_mask_value = 0;
  float top_p = 0;  // none
  bool normalize = false;
  float normalize_eps = 0;
  float normalize_min = 0;
  float scale = 1;
  int identity_experts = 0;
  int64_t sequence_length = 0;  // tokens of a sequence; the whole batch
  // Every token of a sequence has the mean of its logits.
  bool by_sequence = false;
  RouterNoise noise;
  Capacity capacity;
};

// A router's parameters that a product reads, or their gradients.
struct RouterMatrices {
  Tensor weight;          // [E', H]
  Tensor bias;            // [E'], optional
  Tensor noise_weight;    // [E', H], optional
  Tensor lora_a, lora_b;  // [r, H] and [E', r], optional
};

// logits = x · weightᵀ + bias + lora_scale · (x · lora_aᵀ) · lora_bᵀ where x is given, then the router.
struct Route {
  RouterConfig router;
  Tensor x;  // [T, H], optional: without it logits are an input
  RouterMatrices parameters;
  float lora_scale = 1;
  // float32 [T, E'], optional: what `logits` and `noise_logits` start as, where they are not x's products and
  // must not be changed in place.
  Tensor given_logits, given_noise_logits;
  Tensor given_indices;   // int32 [T, K], with Choice::given
  Tensor mask;            // int32 [T], optional: tokens that are 0 (padding) are not routed
  Tensor selection_bias;  // float32 [E'], optional: added to the scores when choosing
  Tensor expert_scale;    // [E], optional: multiplies the weights
  Tensor logits;          // float32 [T, E'], what is scored
  Tensor noise_logits;    // float32 [T, E'], with noisy_top_k
  Tensor indices;         // int32 [T, K], out, by descending score
  Tensor weights;         // float32 [T, K], out
  Tensor counts;          // int32 [E'], out: slots that chose an expert; of Choice::all, that it served
  Tensor dropped;         // int32 [T, K], out, a SlotFate; present where not every slot is served
};

struct RouterGradientFlags {
  bool weight = false, bias = false, noise_weight = false, lora_a = false, lora_b = false;
};

// d_logits from the gradient of the weights (and an extra one of the logits), then the gradients of x and of
// the parameters that are asked for.
struct RouteBackward {
  RouterConfig router;
  Tensor logits, indices;       // as Route left them
  Tensor noise_logits;          // with noisy_top_k
  Tensor dropped;               // optional
  Tensor mask;                  // optional
  Tensor expert_scale;          // [E], optional
  Tensor d_weights;             // float32 [T, K], optional
  Tensor extra_d_logits;        // float32 [T, E'], optional: of what was scored
  Tensor extra_d_noise_logits;  // float32 [T, E'], optional
  Tensor x;                     // [T, H]; needed for d_parameters
  RouterMatrices parameters;    // needed for dx
  float lora_scale = 1;
  Tensor d_logits, d_noise_logits;  // float32 [T, E'], out, of what the logits were before mean and noise
  Tensor dx;                        // [T, H], out, optional
  RouterMatrices d_parameters;      // out, optional
  Tensor d_expert_scale;            // [E], out, optional
  bool accumulate_dx = false, accumulate_d_expert_scale = false;
  RouterGradientFlags accumulate;
};

// Losses that keep a router healthy, and their gradient to the logits. Shares p of a token are its scores
// divided by their sum where each is a function of one logit and positive, else its softmax. Each loss has
// its coefficient.
struct RouterLoss {
  RouterConfig router;
  Tensor logits, indices;  // float32 [T, E'], int32 [T, K]
  Tensor weights;          // float32 [T, K]
  Tensor dropped;          // optional
  Tensor expert_scale;     // [E], optional
  Tensor noise_logits;     // float32 [T, E'], for `load`
  Tensor mask;             // int32 [T], optional: tokens that are 0 (padding) count for nothing
  // Tokens are balanced in runs of so many, or (0) all together.
  int64_t sequence_length = 0;
  float load_balance = 0;  // E'·Σ_e f_e·P_e, f_e the share of slots and P_e the mean of p_e, mean of the runs
  float z = 0;             // mean square of ln Σ exp z
  float importance = 0;    // CV² of Σ_t weight
  float load = 0;          // CV² of Σ_t P(chosen again under new noise)
  Tensor losses;           // float32 [4], out: in this order
  Tensor entropy;          // float32 [1], out: mean of -Σ p ln p
  Tensor d_logits;         // float32 [T, E'], out
  Tensor d_noise_logits;   // float32 [T, E'], out, with `noise_logits`
};

// selection_bias[e] += rate · sign(mean of counts - counts[e])
struct UpdateSelectionBias {
  Tensor selection_bias, counts;  // float32 [E'], int32 [E']
  float rate = 0;
};

}  // namespace moe
