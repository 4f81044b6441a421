// Who is dropped where experts take only so many rows.
#pragma once

#include "cuda/context.h"
#include "ops/router.h"

namespace moe::cuda {

// As the CPU's: marks served slots over capacity, zeroes their weights, lets tokens pass where asked.
void apply_capacity(const Route& op, const Context& context);

}  // namespace moe::cuda
