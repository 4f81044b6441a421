// Element types on the device: storage to float32 and back, rounded to nearest even.
#pragma once

#include "cuda/device/ptx.cuh"
#include "ops/dtype.h"

namespace moe::cuda {

__device__ inline float to_float(float value) {
  return value;
}
__device__ inline float to_float(bfloat16 value) {
  return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}
__device__ inline float to_float(float16 value) {
  return ptx::float_of_f16(value.bits);
}
__device__ inline float to_float(int32_t value) {
  return static_cast<float>(value);
}

template <class T>
__device__ T from_float(float value);

template <>
__device__ inline float from_float(float value) {
  return value;
}
template <>
__device__ inline bfloat16 from_float(float value) {
  return {ptx::bf16_of(value)};
}
template <>
__device__ inline float16 from_float(float value) {
  return {ptx::f16_of(value)};
}
// What int32 cannot hold saturates; NaN becomes 0, as on the CPU.
template <>
__device__ inline int32_t from_float(float value) {
  return __float2int_rn(value);
}

// Sixteen bytes of elements, moved at once.
template <class T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T of[kSize];
};

}  // namespace moe::cuda
