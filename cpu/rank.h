// An order of floats without special cases, for choices that must not depend on how a comparison treats NaN.
#pragma once

#include <bit>
#include <cstdint>

namespace moe::cpu {

// Orders like the values, with -0 equal to 0 and NaN below every number.
inline int32_t rank_of(float value) {
  if (value != value) return INT32_MIN;
  const auto bits = std::bit_cast<int32_t>(value + 0.0f);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

}  // namespace moe::cpu
