// The sizes in which memory is kept for reuse.
#pragma once

#include <bit>
#include <cstddef>

namespace moe {

// Four sizes per power of two: at most a quarter of a block is waste. Sizes too large to round up stay, to be
// refused.
inline size_t size_class(size_t bytes) {
  constexpr size_t kLeast = 256;
  if (bytes <= kLeast) return kLeast;
  const size_t below_step = std::bit_floor(bytes - 1) / 4 - 1;
  const size_t rounded = (bytes + below_step) & ~below_step;
  return rounded < bytes ? bytes : rounded;
}

}  // namespace moe
