// Sums and choices over the lanes of a warp, in a fixed order.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/device/where.cuh"

namespace moe::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline int lane_id() {
  return static_cast<int>(threadIdx.x) % kWarp;
}

// Of a grid of warps along x.
__device__ inline int64_t warp_of_grid() {
  return (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarp;
}

__device__ inline int64_t warps_of_grid() {
  return int64_t{gridDim.x} * blockDim.x / kWarp;
}

// The sum, in every lane.
__device__ inline float warp_sum(float value MOE_WHERE) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    value += __shfl_xor_sync(kAllLanes, value, offset, kWarp MOE_HERE);
  return value;
}

__device__ inline float warp_max(float value MOE_WHERE) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, offset, kWarp MOE_HERE));
  return value;
}

// Orders like the values, with -0 equal to 0 and NaN below every number.
__device__ inline int32_t rank_of(float value) {
  if (value != value) return INT32_MIN + 1;
  const int32_t bits = __float_as_int(value + 0.0f);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

}  // namespace moe::cuda
