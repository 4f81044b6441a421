// Routing [T, E] logits to K experts a token, and the way back. All in float32.
#pragma once

#include <array>
#include <cstdint>

#include "ops/tensor.h"

namespace moe {

enum class Score : uint8_t { softmax, sigmoid };
enum class SoftmaxOver : uint8_t { all, selected };

inline constexpr std::array<const char*, 2> kScoreNames = {"softmax", "sigmoid"};
inline constexpr std::array<const char*, 2> kSoftmaxOverNames = {"all", "selected"};

struct RouterConfig {
  int top_k = 1;
  Score score = Score::softmax;
  SoftmaxOver softmax_over = SoftmaxOver::all;
  bool normalize = false;
  float normalize_eps = 0;
  float normalize_min = 0;
  float scale = 1;
};

// logits = x · weightᵀ + bias where x is given, then scores, top-k (ties to the lower id), weights and
// counts.
struct Route {
  RouterConfig router;
  Tensor x;        // [T, H], optional: without it logits are an input
  Tensor weight;   // [E, H]
  Tensor bias;     // [E], optional
  Tensor logits;   // float32 [T, E]
  Tensor indices;  // int32 [T, K], out, by descending score
  Tensor weights;  // float32 [T, K], out
  Tensor counts;   // int32 [E], out
};

// d_logits from the gradient of the weights (and an extra one of the logits), then dx, d_weight and d_bias
// where asked.
struct RouteBackward {
  RouterConfig router;
  Tensor logits, indices;  // as Route left them
  Tensor d_weights;        // float32 [T, K], optional
  Tensor extra_d_logits;   // float32 [T, E], optional
  Tensor x, weight;        // [T, H], [E, H]; needed for d_weight and dx
  Tensor d_logits;         // float32 [T, E], out
  Tensor dx;               // [T, H], out, optional
  Tensor d_weight;         // [E, H], out, optional
  Tensor d_bias;           // [E], out, optional
  bool accumulate_dx = false, accumulate_d_weight = false, accumulate_d_bias = false;
};

}  // namespace moe
