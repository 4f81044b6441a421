// The router for one token in float64, and its gradient by central differences.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/router.h"

namespace moe::test {

using Values = std::vector<double>;

// The router with its vectors over all experts, empty where it has none.
struct TokenRouter {
  RouterConfig config;
  Values selection_bias, expert_scale;
};

// The K chosen experts: higher values first, ties to the lower id, NaN below every number.
std::vector<int32_t> choose_experts(const TokenRouter& router, const Values& logits);

// The weights of experts already chosen.
Values routing_weights(const TokenRouter& router, const Values& logits, const std::vector<int32_t>& chosen);

// Gradient of Σ_k d_weights[k] · weights[k] by the logits, the choice held.
Values routing_gradient(const TokenRouter& router, const Values& logits, const std::vector<int32_t>& chosen,
                        const Values& d_weights);

Values softmax(const Values& logits);
// A score that depends on its own logit alone.
double score_at(Score score, double z);

}  // namespace moe::test
