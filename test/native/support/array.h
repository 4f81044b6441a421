// Elements of a dtype in memory that shows what a kernel must not do: all start as NaN, a guard lies before
// them, and after the last byte comes a page that faults on any access.
#pragma once

#include <cstring>
#include <initializer_list>
#include <random>

#include "ops/dtype.h"
#include "support/format.h"

namespace moe::test {

using Random = std::mt19937;
inline constexpr std::initializer_list<DType> kFloatDTypes = {DType::float32, DType::bfloat16,
                                                              DType::float16};

class Array {
 public:
  Array(DType dtype, int64_t count);
  // Unit scale: the standard normal distribution.
  Array(DType dtype, int64_t count, Random& random) : Array(dtype, count) { fill(random); }
  ~Array();
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  DType dtype() const { return dtype_; }
  int64_t size() const { return count_; }
  void* at(int64_t i) { return data_ + i * static_cast<int64_t>(bytes_of(dtype_)); }
  const void* at(int64_t i) const { return data_ + i * static_cast<int64_t>(bytes_of(dtype_)); }
  float* f32() { return reinterpret_cast<float*>(data_); }

  void fill(Random& random) {
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < count_; ++i) set(i, normal(random));
  }
  void set(int64_t i, double value);
  double operator[](int64_t i) const;

  uint32_t bits(int64_t i) const {
    uint32_t bits = 0;
    std::memcpy(&bits, at(i), bytes_of(dtype_));
    return bits;
  }
  void set_bits(int64_t i, uint32_t bits) { std::memcpy(at(i), &bits, bytes_of(dtype_)); }

  // Whether element i, or the guard, is as it was at first.
  bool untouched(int64_t i) const { return bits(i) == (bytes_of(dtype_) == 2 ? 0xffffu : 0xffffffffu); }
  bool guard_untouched() const;

 private:
  DType dtype_;
  int64_t count_;
  char* pages_;
  size_t page_bytes_;  // without the one that faults
  char* data_;
};

}  // namespace moe::test
