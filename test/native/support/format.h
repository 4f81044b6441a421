// The 16-bit formats by their definition, in float64 and without bit tricks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace moe::test {

struct Format {
  int fraction_bits;
  int min_exponent;  // of normal numbers

  // Its bits; greater ones are NaN.
  constexpr int infinity() const { return ((1 << (15 - fraction_bits)) - 1) << fraction_bits; }
};
inline constexpr Format kBFloat16 = {.fraction_bits = 7, .min_exponent = -126};
inline constexpr Format kFloat16 = {.fraction_bits = 10, .min_exponent = -14};

inline double decode(uint16_t bits, const Format& format) {
  const int magnitude = bits & 0x7fff;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (magnitude > format.infinity()) return std::numeric_limits<double>::quiet_NaN();
  if (magnitude == format.infinity()) return sign * std::numeric_limits<double>::infinity();
  const int field = magnitude >> format.fraction_bits;
  const int fraction = magnitude - (field << format.fraction_bits);
  const int significand = field > 0 ? fraction + (1 << format.fraction_bits) : fraction;
  return sign * std::ldexp(significand, std::max(field - 1, 0) + format.min_exponent - format.fraction_bits);
}

// Rounds to nearest even.
inline uint16_t encode(double x, const Format& format) {
  if (std::isnan(x)) return 0x7fff;
  const int sign = std::signbit(x) ? 0x8000 : 0;
  if (std::isinf(x)) return static_cast<uint16_t>(sign | format.infinity());
  const double magnitude = std::fabs(x);
  const int exponent =
      magnitude > 0 ? std::max(std::ilogb(magnitude), format.min_exponent) : format.min_exponent;
  const double significand = std::nearbyint(std::ldexp(magnitude, format.fraction_bits - exponent));
  // Bits count the representable numbers below: a whole binade's for each exponent.
  const int64_t bits =
      static_cast<int64_t>(significand) + (int64_t{exponent - format.min_exponent} << format.fraction_bits);
  return static_cast<uint16_t>(sign | std::min<int64_t>(bits, format.infinity()));
}

}  // namespace moe::test
