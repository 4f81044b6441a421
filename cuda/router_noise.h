// The router's exploration noise, drawn by counter: the CPU's bits.
#pragma once

#include "cuda/context.h"
#include "ops/router.h"

namespace moe::cuda {

// out[t][h] (+)= x[t][h] · (1 + strength·(2u - 1)); of a gradient, its own way back.
void jitter_rows(const RouterNoise& noise, const Tensor& x, const Tensor& out, bool accumulate,
                 const Context& context);

// Gumbel or noisy top-k noise onto the logits, in place.
void add_noise(const RouterConfig& router, const Tensor& noise_logits, const Tensor& logits,
               const Context& context);

// d_noise_logits = d_logits · strength·σ(noise logit)·n + extra, with noisy top-k.
void noise_backward(const RouterConfig& router, const Tensor& noise_logits, const Tensor& d_logits,
                    const Tensor& extra, const Tensor& d_noise_logits, const Context& context);

}  // namespace moe::cuda
