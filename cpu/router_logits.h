// The router's products: logits of x and, backward, the gradients of x and of the router's matrices. Skinny,
// in float32, bound by the bytes of x.
#pragma once

#include "ops/router.h"

namespace moe::cpu {

// logits = x · weightᵀ + bias + lora, and the noise logits where the router has a noise weight.
void project_logits(const Route& op);

// dx, d_weight, d_bias, d_noise_weight and the low-rank pair's gradients, as asked for, of op.d_logits and
// op.d_noise_logits.
void project_logits_backward(const RouteBackward& op);

}  // namespace moe::cpu
