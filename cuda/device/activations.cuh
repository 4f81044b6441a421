// Each activation's value and derivative: the twin of cpu/isa/activations.h.
#pragma once

#include <cuda_runtime.h>

#include "cuda/device/scores.cuh"
#include "ops/activation.h"

namespace moe::cuda {

// f(x) and f'(x) of the function that is applied to the gate, or to the whole where there is none.
struct Slope {
  float value, derivative;
};

// Where x is NaN, so is what comes of it.
__device__ inline float above_zero(float x) {
  return x < 0 ? 0.0f : x;
}
__device__ inline float at_most(float limit, float x) {
  return x > limit ? limit : x;
}

__device__ inline Slope silu(float x, float alpha) {
  const float s = sigmoid(alpha * x);
  return {x * s, fmaf(alpha * x * s, 1.0f - s, s)};
}

__device__ inline Slope activation_of(const ActivationSpec& spec, float x) {
  switch (spec.function) {
    case Activation::identity:
      return {x, 1.0f};
    case Activation::relu:
    case Activation::reglu:
      return {above_zero(x), x > 0 ? 1.0f : 0.0f};
    case Activation::relu2: {
      const float r = above_zero(x);
      return {r * r, r + r};
    }
    case Activation::gelu:
    case Activation::geglu: {
      constexpr float kRootOfHalf = 0.70710678f, kDensityAtZero = 0.39894228f;
      const float cdf = 0.5f * erfcf(-x * kRootOfHalf);
      return {x * cdf, fmaf(x * kDensityAtZero, expf(-0.5f * x * x), cdf)};
    }
    case Activation::gelu_tanh:
    case Activation::geglu_tanh: {
      // x·σ(2u) with u = √(2/π)·(x + 0.044715·x³)
      constexpr float kTwiceRoot = 1.59576912f;
      const float s = sigmoid(x * kTwiceRoot * fmaf(x * x, 0.044715f, 1.0f));
      const float inner = kTwiceRoot * fmaf(x * x, 3 * 0.044715f, 1.0f);
      return {x * s, fmaf(x * s * (1.0f - s), inner, s)};
    }
    case Activation::swiglu:
    case Activation::swiglu_clamped: {
      if (spec.limit <= 0) return silu(x, 1.0f);
      const Slope slope = silu(at_most(spec.limit, x), spec.alpha);
      return {slope.value, x > spec.limit ? 0.0f : slope.derivative};
    }
    case Activation::silu:
      return silu(x, 1.0f);
  }
  return {x, 1.0f};
}

// What the gate is multiplied by, and its derivative.
__device__ inline Slope up_of(const ActivationSpec& spec, float u) {
  const bool clamped =
      spec.limit > 0 && (spec.function == Activation::swiglu || spec.function == Activation::swiglu_clamped);
  if (!clamped) return {u, 1.0f};
  const float inside = u < -spec.limit ? -spec.limit : at_most(spec.limit, u);
  return {inside + spec.up_shift, fabsf(u) > spec.limit ? 0.0f : 1.0f};
}

}  // namespace moe::cuda
