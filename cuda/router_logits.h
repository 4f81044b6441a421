// The router's products: logits of x and, backward, the gradients of x and of the router's matrices.
#pragma once

#include "cuda/context.h"
#include "ops/router.h"

namespace moe::cuda {

void project_logits(const Route& op, const Context& context);
void project_logits_backward(const RouteBackward& op, const Context& context);

}  // namespace moe::cuda
