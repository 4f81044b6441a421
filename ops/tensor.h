// A dense, row-major array as ops see it: no ownership. Storage owns memory and is pinned while an op is
// pending.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "ops/dtype.h"

namespace moe {

inline constexpr int kMaxRank = 8;

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::float32;
  int rank = 0;
  std::array<int64_t, kMaxRank> dims{};
  // False for an optional tensor that was not given.
  bool present = false;

  explicit operator bool() const { return present; }
  std::span<const int64_t> shape() const { return {dims.data(), static_cast<size_t>(rank)}; }
  int64_t dim(int axis) const { return dims[static_cast<size_t>(axis)]; }
  int64_t elements() const {
    int64_t count = 1;
    for (int64_t size : shape()) count *= size;
    return count;
  }
  size_t bytes() const { return static_cast<size_t>(elements()) * bytes_of(dtype); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  int32_t* i32() const { return as<int32_t>(); }
  float* f32() const { return as<float>(); }
};

// Memory of a tensor. Destroyed when neither a handle nor a pending op needs it, on whichever thread that
// happens.
class Storage {
 public:
  Storage(void* data, size_t bytes) : data_(data), bytes_(bytes) {}
  virtual ~Storage() = default;
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  // Whether it goes back in the order of its device's queue, after what was submitted before: then no pending
  // op needs to pin it.
  virtual bool freed_in_order() const { return false; }

 private:
  void* data_;
  size_t bytes_;
};

}  // namespace moe
