// The activations between the up and the down projection. The TypeScript names are these, read from the
// addon.
#pragma once

#include <array>
#include <cstdint>

namespace moe {

// Ungated ones first: `is_gated` relies on it.
enum class Activation : uint8_t {
  identity,
  relu,
  gelu,
  gelu_tanh,
  silu,
  relu2,
  swiglu,
  geglu,
  geglu_tanh,
  reglu,
  swiglu_clamped
};

inline constexpr std::array<const char*, 11> kActivationNames = {
    "identity", "relu",  "gelu",       "gelu_tanh", "silu",          "relu2",
    "swiglu",   "geglu", "geglu_tanh", "reglu",     "swiglu_clamped"};

// An activation and its parameters, which mean something for `swiglu_clamped`, and the limit for `swiglu`: g
// = min(g, limit), u = clamp(u, ±limit) + up_shift, g·σ(alpha·g)·u.
struct ActivationSpec {
  Activation function = Activation::identity;
  float limit = 0;  // none
  float alpha = 1;
  float up_shift = 0;
};

// Whether the pre-activation has a gate half and an up half.
constexpr bool is_gated(const ActivationSpec& activation) {
  return activation.function >= Activation::swiglu;
}

}  // namespace moe
