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
  reglu
};

inline constexpr std::array<const char*, 10> kActivationNames = {
    "identity", "relu", "gelu", "gelu_tanh", "silu", "relu2", "swiglu", "geglu", "geglu_tanh", "reglu"};

// Whether the pre-activation has a gate half and an up half.
constexpr bool is_gated(Activation activation) {
  return activation >= Activation::swiglu;
}

}  // namespace moe
