// The router for one token in float64, and its gradient by central differences.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/router.h"

namespace moe::test {

// The K chosen experts: higher logits first, ties to the lower id, NaN below every number.
std::vector<int32_t> choose_experts(const std::vector<double>& logits, int top_k);

// The weights of experts already chosen.
std::vector<double> routing_weights(const RouterConfig& router, const std::vector<double>& logits,
                                    const std::vector<int32_t>& chosen);

// Gradient of Σ_k d_weights[k] · weights[k] by the logits, the choice held.
std::vector<double> routing_gradient(const RouterConfig& router, const std::vector<double>& logits,
                                     const std::vector<int32_t>& chosen,
                                     const std::vector<double>& d_weights);

}  // namespace moe::test
