// The router's exploration noise, drawn by counter: each number depends on its place alone.
#pragma once

#include "ops/router.h"

namespace moe::cpu {

// rows[t][h] = x[t][h] · (1 + strength·(2u - 1)), in float32; of a gradient, its own way back. `rows` may be
// x.
void jitter_rows(const RouterNoise& noise, const Tensor& x, const Tensor& rows);

// Gumbel or noisy top-k noise onto the logits, in place. Tokens of one sequence share their numbers where the
// router works by sequence.
void add_noise(const RouterConfig& router, const Tensor& noise_logits, const Tensor& logits);

// d_noise_logits = d_logits · strength·σ(noise logit)·n + extra, with noisy top-k.
void noise_backward(const RouterConfig& router, const Tensor& noise_logits, const Tensor& d_logits,
                    const Tensor& extra, const Tensor& d_noise_logits);

// The normal deviates of a token's logits, [E'].
void draw_normals(const RouterConfig& router, int64_t token, int64_t experts, float* out);

// softplus and its derivative: the deviation that a noise logit stands for, without the strength.
struct Deviation {
  float value, slope;
};
Deviation deviation_of(float noise_logit);

}  // namespace moe::cpu
