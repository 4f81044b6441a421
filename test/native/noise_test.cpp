// The router's random numbers: the generator's known answers, their distributions against float64, and their
// bits, which must be the same whatever compiler and instruction set made them.
#include "ops/noise.h"

#include <cmath>
#include <cstring>

#include "support/expect.h"

namespace moe::test {
namespace {

// A uniform number is made of the upper bits of a word: so many words stand for all of them.
constexpr uint32_t kDistinct = uint32_t{1} << 23;
constexpr uint32_t word_of(uint32_t index) {
  return index << 9;
}

double upper_tail(double x) {
  return std::erfc(x * std::sqrt(0.5)) / 2;
}

double normal_density(double x) {
  return std::exp(-x * x / 2) / std::sqrt(2 * std::acos(-1.0));
}

// FNV-1a over the bits of one number after the other.
template <class Draw>
uint64_t fingerprint(Draw draw) {
  uint64_t hash = 0xcbf29ce484222325;
  for (uint32_t i = 0; i < kDistinct; ++i) {
    const float value = draw(word_of(i));
    uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    hash = (hash ^ bits) * 0x100000001b3;
  }
  return hash;
}

}  // namespace

TEST_SUITE("kernels") {
  // Of 10 rounds, from Salmon et al. 2011.
  TEST_CASE("Philox gives its known answers") {
    CHECK_EQ(noise::philox({0, 0, 0, 0}, 0, 0), noise::Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
    constexpr uint32_t kOnes = 0xffffffff;
    CHECK_EQ(noise::philox({kOnes, kOnes, kOnes, kOnes}, kOnes, kOnes),
             noise::Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
    CHECK_EQ(noise::philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0),
             noise::Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
  }

  TEST_CASE("words are placed by seed, step, row and block of columns") {
    CHECK_EQ(noise::words_of(0x0000000700000005, 0x0000000400000006, 9, 3),
             noise::philox({3, 9, 6, 4}, 5, 7));
  }

  TEST_CASE("uniform numbers never reach an end") {
    CHECK_EQ(noise::uniform(0), 0x1p-24f);
    CHECK_EQ(noise::uniform(0xffffffff), 1 - 0x1p-24f);
    CHECK_EQ(noise::uniform(0x80000000), 0.5f + 0x1p-24f);
  }

  TEST_CASE("Gumbel and normal numbers are those of float64, for every word") {
    double gumbel_error = 0, normal_error = 0;
    for (uint32_t i = 0; i < kDistinct; ++i) {
      const double u = noise::uniform(word_of(i)), g = -std::log(-std::log(u));
      gumbel_error = std::fmax(gumbel_error, std::fabs(noise::gumbel(word_of(i)) - g) / (1 + std::fabs(g)));
      // In the nearer tail, where the share is exact; a distance in shares, by the density, is one in
      // deviations.
      const double n = noise::normal(word_of(i)), tail = u < 0.5 ? u : 1 - u;
      const double off = std::fabs(upper_tail(u < 0.5 ? -n : n) - tail) / normal_density(n);
      normal_error = std::fmax(normal_error, off / (1 + std::fabs(n)));
    }
    CHECK_LE(gumbel_error, 2e-7);
    CHECK_LE(normal_error, 3e-7);
  }

  TEST_CASE("all numbers have these bits, whatever compiled them") {
    CHECK_EQ(fingerprint(noise::uniform), 0x569caf85fee56325);
    CHECK_EQ(fingerprint(noise::gumbel), 0xb4e9933f2101f9fd);
    CHECK_EQ(fingerprint(noise::normal), 0xd91acf65e4808583);
  }
}

}  // namespace moe::test
