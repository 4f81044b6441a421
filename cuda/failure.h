// How kernels report what they find in index tensors: the first one leaves word in a slot that the next wait
// reads and clears.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstdint>

namespace moe::cuda {

// The tensor, or the number of rows, that was out of range.
enum class Argument : int32_t { indices, row_slot, slot_row, offsets, rows, rows_per_expert };
inline constexpr std::array<const char*, 6> kArgumentNames = {"indices", "rowSlot", "slotRow",
                                                              "offsets", "rows",    "rowsPerExpert"};

struct Failure {
  int32_t taken = 0;  // 1 once a kernel has claimed it: a slot of zeros is empty
  int32_t op = 0;     // index of the op's alternative in Op
  Argument argument = Argument::indices;
  int32_t least = 0, limit = 0, got = 0;
};

struct FailureReport {
  Failure* failure;
  int32_t op;
  Argument argument;

  // `got` was expected in [least, limit). Defined in device/report.cuh.
  __device__ void operator()(int32_t got, int32_t least, int32_t limit) const;
};

}  // namespace moe::cuda
