// Score functions of one logit alone: a function s of z, and its slope at z where it is s. Softmaxes are made
// of whole rows.
#pragma once

#include <cuda_runtime.h>

#include "ops/router.h"

namespace moe::cuda {

__device__ inline float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}

// ln(1 + e^x), without overflow.
__device__ inline float softplus(float x) {
  return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x)));
}

__device__ inline bool is_elementwise(Score score) {
  return score == Score::sigmoid || score == Score::sqrtsoftplus || score == Score::identity;
}

__device__ inline float elementwise_score(Score score, float z) {
  switch (score) {
    case Score::sigmoid:
      return sigmoid(z);
    case Score::sqrtsoftplus:
      return sqrtf(softplus(z));
    default:
      return z;
  }
}

__device__ inline float elementwise_slope(Score score, float z, float s) {
  switch (score) {
    case Score::sigmoid:
      return s * (1.0f - s);
    case Score::sqrtsoftplus:
      // σ(z) / 2s, which goes to 0 with s.
      return s > 0 ? sigmoid(z) / (2.0f * s) : 0.0f;
    default:
      return 1.0f;
  }
}

}  // namespace moe::cuda
