// Each activation and its derivative in float64, from its definition.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>

#include "ops/activation.h"

namespace moe::test {

struct Slope {
  double value, derivative;
};

inline bool is_clamped(const ActivationSpec& activation) {
  return activation.function == Activation::swiglu_clamped || activation.limit > 0;
}

inline Slope silu_at(double x, double alpha) {
  const double s = 1 / (1 + std::exp(-alpha * x));
  return {x * s, s + alpha * x * s * (1 - s)};
}

// Of the function that is applied to the gate (gated) or to the whole (ungated).
inline Slope activation_at(const ActivationSpec& activation, double x) {
  switch (activation.function) {
    case Activation::identity:
      return {x, 1};
    case Activation::relu:
    case Activation::reglu:
      return {std::fmax(x, 0), x > 0 ? 1.0 : 0.0};
    case Activation::relu2:
      return {std::fmax(x, 0) * std::fmax(x, 0), 2 * std::fmax(x, 0)};
    case Activation::silu:
    case Activation::swiglu:
    case Activation::swiglu_clamped: {
      const bool held = is_clamped(activation) && x > activation.limit;
      const Slope silu = silu_at(held ? activation.limit : x, activation.alpha);
      return {silu.value, held ? 0 : silu.derivative};
    }
    case Activation::gelu:
    case Activation::geglu: {
      const double cdf = std::erfc(-x / std::numbers::sqrt2) / 2;
      const double density = std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
      return {x * cdf, cdf + x * density};
    }
    case Activation::gelu_tanh:
    case Activation::geglu_tanh: {
      const double root = std::sqrt(2 / std::numbers::pi);
      const double t = std::tanh(root * (x + 0.044715 * x * x * x));
      const double slope = root * (1 + 3 * 0.044715 * x * x);
      return {x / 2 * (1 + t), (1 + t) / 2 + x / 2 * (1 - t * t) * slope};
    }
  }
  return {};
}

// Of what the activated gate is multiplied by.
inline Slope up_at(const ActivationSpec& activation, double u) {
  if (!is_clamped(activation)) return {u, 1};
  const double limit = activation.limit;
  return {std::clamp(u, -limit, limit) + activation.up_shift, std::fabs(u) > limit ? 0.0 : 1.0};
}

}  // namespace moe::test
