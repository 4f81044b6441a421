// Parallel loops over tokens or rows in chunks worth a thread's while, and checks of what index tensors
// contain.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "cpu/thread_pool.h"
#include "ops/error.h"
#include "ops/tensor.h"

namespace moe::cpu {

// Calls body(begin, end) over [0, count); `bytes` is what one item moves.
template <class Body>
void for_chunks(int64_t count, int64_t bytes, Body body) {
  constexpr int64_t kChunkBytes = 64 << 10;
  const int64_t chunk = std::max<int64_t>(1, kChunkBytes / std::max<int64_t>(1, bytes));
  ThreadPool::instance().parallel_for((count + chunk - 1) / chunk,
                                      [&](int64_t i) { body(i * chunk, std::min(count, (i + 1) * chunk)); });
}

// Offsets of ragged groups must ascend from 0 to at most `rows`: kernels index memory with them.
inline void check_offsets(const Tensor& offsets, int64_t rows) {
  const int32_t* o = offsets.i32();
  const int64_t groups = offsets.dim(0) - 1;
  const auto refuse = [&](int64_t g) {
    throw Error(kErrIndexRange, "offsets: expected values ascending from 0 to at most " +
                                    std::to_string(rows) + ", got " + std::to_string(o[g]) + " at " +
                                    std::to_string(g));
  };
  if (o[0] != 0) refuse(0);
  for (int64_t g = 1; g <= groups; ++g) {
    if (o[g] < o[g - 1] || o[g] > rows) refuse(g);
  }
}

// The first `count` values must lie in [least, limit).
inline void check_range(const char* name, const Tensor& indices, int64_t limit, int64_t least = 0,
                        int64_t count = -1) {
  const int32_t* index = indices.i32();
  if (count < 0) count = indices.elements();
  for (int64_t i = 0; i < count; ++i) {
    if (index[i] >= least && index[i] < limit) continue;
    throw Error(kErrIndexRange, std::string(name) + ": expected values from " + std::to_string(least) +
                                    " to " + std::to_string(limit - 1) + ", got " + std::to_string(index[i]));
  }
}

// Row i of a matrix of `width` columns.
inline const void* row_of(const Tensor& tensor, int64_t row, int64_t width) {
  return tensor.as<const char>() + row * width * static_cast<int64_t>(bytes_of(tensor.dtype));
}
inline void* mutable_row_of(const Tensor& tensor, int64_t row, int64_t width) {
  return tensor.as<char>() + row * width * static_cast<int64_t>(bytes_of(tensor.dtype));
}

}  // namespace moe::cpu
