// Routing fused with the product that makes the logits.
#pragma once

#include "cuda/context.h"
#include "cuda/device/route_outcome.cuh"

namespace moe::cuda {

// Routes tokens in the epilogue of x · weightᵀ, where nothing but a bias comes between and a tile has whole
// rows of logits; false, and nothing done, where it does not. The logits have the same bits either way.
bool route_as_projected(const Route& op, const Tokens& tokens, const Outcome& outcome,
                        const Context& context);

}  // namespace moe::cuda
