// Random numbers by counter: the same bits for the same (seed, step, row, column) on every backend, whatever
// the order in which they are drawn. Everything is integer arithmetic, IEEE-exact operations and explicit
// fused multiply-adds, so that no compiler may round differently.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

#include "ops/everywhere.h"

namespace moe::noise {

using Words = std::array<uint32_t, 4>;

// Philox4x32-10 (Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3).
MOE_EVERYWHERE inline Words philox(Words counter, uint32_t key0, uint32_t key1) {
  constexpr uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = kMultiplier0 * counter[0], product1 = kMultiplier1 * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return counter;
}

// The words of columns 4·block … 4·block + 3 of a row.
MOE_EVERYWHERE inline Words words_of(uint64_t seed, uint64_t step, uint32_t row, uint32_t block) {
  const auto low = [](uint64_t value) { return static_cast<uint32_t>(value); };
  return philox({block, row, low(step), low(step >> 32)}, low(seed), low(seed >> 32));
}

// In (0, 1), never an end of it: an odd multiple of 2^-24.
MOE_EVERYWHERE inline float uniform(uint32_t word) {
  return (static_cast<float>(word >> 9) + 0.5f) * 0x1p-23f;
}

// ln x of a normal x > 0 to about a rounding: x = 2^n · m with m in [√½, √2), ln m = 2·atanh(s) with
// s = (m - 1) / (m + 1), |s| ≤ 0.172, by its series to s^9.
MOE_EVERYWHERE inline float log(float x) {
  auto bits = std::bit_cast<uint32_t>(x);
  const uint32_t shifted = bits + (0x3f800000u - 0x3f3504f3u);
  const auto n = static_cast<float>(static_cast<int32_t>(shifted >> 23) - 127);
  bits = (shifted & 0x007fffffu) + 0x3f3504f3u;
  const float f = std::bit_cast<float>(bits) - 1.0f;
  const float s = f / (2.0f + f);
  const float square = s * s;
  float series = std::fma(square, 1.0f / 9, 1.0f / 7);
  series = std::fma(square, series, 1.0f / 5);
  series = std::fma(square, series, 1.0f / 3);
  const float twice = 2.0f * s;
  const float tail = twice * square;
  const float mantissa = std::fma(tail, series, twice);
  return std::fma(n, 0.69314575f, std::fma(n, 1.4286068e-6f, mantissa));
}

// The standard Gumbel distribution.
MOE_EVERYWHERE inline float gumbel(uint32_t word) {
  return -log(-log(uniform(word)));
}

// The standard normal distribution: √2 · erfinv(2u - 1) by the single-precision fit of Giles 2010
// (Approximating the erfinv function).
MOE_EVERYWHERE inline float normal(uint32_t word) {
  constexpr std::array<float, 9> kCentre = {1.50140941f,     0.246640727f,    -0.00417768164f,
                                            -0.00125372503f, 0.00021858087f,  -4.39150654e-06f,
                                            -3.5233877e-06f, 3.43273939e-07f, 2.81022636e-08f};
  constexpr std::array<float, 9> kTail = {2.83297682f,    1.00167406f,     0.00943887047f,
                                          -0.0076224613f, 0.00573950773f,  -0.00367342844f,
                                          0.00134934322f, 0.000100950558f, -0.000200214257f};
  constexpr float kRootOfTwo = 1.41421356f;
  const float u = uniform(word);
  const float w = -log(4.0f * (u * (1.0f - u)));
  const bool central = w < 5.0f;
  const float x = central ? w - 2.5f : std::sqrt(w) - 3.0f;
  float sum = central ? kCentre[8] : kTail[8];
  for (int i = 7; i >= 0; --i) {
    const auto at = static_cast<size_t>(i);
    sum = std::fma(sum, x, central ? kCentre[at] : kTail[at]);
  }
  return kRootOfTwo * (sum * std::fma(2.0f, u, -1.0f));
}

}  // namespace moe::noise
