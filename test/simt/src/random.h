// The seeded choices of a schedule.
#pragma once

#include <bit>
#include <cstdint>

namespace simt {

class Random {
 public:
  // Streams of different SEED or STREAM have nothing in common.
  explicit Random(uint64_t seed = 0, uint64_t stream = 0) : state_(mix(mix(seed) + stream)) {}

  uint64_t next() {
    state_ += 0x9e3779b97f4a7c15u;
    return mix(state_);
  }

  // Below BOUND.
  uint64_t below(uint64_t bound) { return next() % bound; }

  // One of the bits of SET, which is not empty.
  unsigned bit_of(uint32_t set) {
    const auto turn = static_cast<int>(next() >> 59);
    return (std::countr_zero(std::rotr(set, turn)) + turn) & 31;
  }

  static uint64_t mix(uint64_t value) {
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
  }

 private:
  uint64_t state_;
};

}  // namespace simt
