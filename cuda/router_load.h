// The load loss of noisy top-k: CV² of how many tokens each expert can expect (Shazeer 2017, arXiv
// 1701.06538).
#pragma once

#include "cuda/context.h"
#include "ops/router.h"

namespace moe::cuda {

// Writes losses[3], and adds to d_logits and d_noise_logits.
void add_load_loss(const RouterLoss& op, const Context& context);

}  // namespace moe::cuda
