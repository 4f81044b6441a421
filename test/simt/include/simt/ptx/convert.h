// cvt: between float32 and the formats of matrix operands, bit for bit as PTX rounds.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace simt {

// Round to nearest, ties to even; NaN becomes the canonical one, 0x7fff, as cvt makes it.
inline uint16_t to_bfloat16(float value) {
  if (value != value) return 0x7fff;
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline float from_bfloat16(uint16_t bits) {
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

inline uint16_t to_float16(float value) {
  if (value != value) return 0x7fff;
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const float size = std::fabs(value);
  if (size >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds past the largest
  if (size < 0x1p-14f) {
    // Subnormal: counts of 2^-24, rounded by the processor's own nearest-even.
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(size * 0x1p24f)));
  }
  const uint32_t magnitude = (bits & 0x7fffffffu) - (112u << 23);
  return static_cast<uint16_t>(sign | (magnitude + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
}

inline float from_float16(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t exponent = bits >> 10 & 0x1fu, fraction = bits & 0x3ffu;
  if (exponent == 0) {
    const float size = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -size : size;
  }
  const uint32_t widened = exponent == 31 ? 0xffu : exponent + 112u;
  return std::bit_cast<float>(sign | widened << 23 | fraction << 13);
}

namespace ptx {

// cvt.rn.bf16x2.f32 d, high, low: the first operand is the upper half.
inline uint32_t cvt_rn_bf16x2_f32(float high, float low) {
  return uint32_t{to_bfloat16(high)} << 16 | to_bfloat16(low);
}
inline uint32_t cvt_rn_f16x2_f32(float high, float low) {
  return uint32_t{to_float16(high)} << 16 | to_float16(low);
}
inline uint16_t cvt_rn_bf16_f32(float value) {
  return to_bfloat16(value);
}
inline uint16_t cvt_rn_f16_f32(float value) {
  return to_float16(value);
}
inline float cvt_f32_bf16(uint16_t bits) {
  return from_bfloat16(bits);
}
inline float cvt_f32_f16(uint16_t bits) {
  return from_float16(bits);
}
// cvt.rna.tf32.f32: nearest, ties away from zero, in the upper 19 bits.
inline uint32_t cvt_rna_tf32_f32(float value) {
  if (value != value) return 0x7fffffffu;
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7f800000u) == 0x7f800000u) return bits;
  return (bits + 0x1000u) & 0xffffe000u;
}

}  // namespace ptx
}  // namespace simt
