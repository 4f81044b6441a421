// Formats of matrix operands, as policies: how many bits an element has and what float32 it is.
#pragma once

#include <bit>
#include <cstdint>

#include "simt/ptx/convert.h"

namespace simt {

struct BFloat16 {
  using Bits = uint16_t;
  static float widen(Bits bits) { return from_bfloat16(bits); }
};

struct Float16 {
  using Bits = uint16_t;
  static float widen(Bits bits) { return from_float16(bits); }
};

struct TFloat32 {
  using Bits = uint32_t;
  static float widen(Bits bits) { return std::bit_cast<float>(bits & 0xffffe000u); }
};

// Element INDEX, lowest first, of a 32-bit register.
template <class Format>
float element_of_register(uint32_t bits, unsigned index) {
  if constexpr (sizeof(typename Format::Bits) == 2) {
    return Format::widen(static_cast<uint16_t>(bits >> (16 * index)));
  } else {
    return Format::widen(bits);
  }
}

}  // namespace simt
