// Elements of a dtype that is known only as the kernel runs.
#pragma once

#include "cuda/device/convert.cuh"

namespace moe::cuda {

__device__ inline float load_as(DType dtype, const void* data, int64_t at) {
  switch (dtype) {
    case DType::bfloat16:
      return to_float(static_cast<const bfloat16*>(data)[at]);
    case DType::float16:
      return to_float(static_cast<const float16*>(data)[at]);
    default:
      return static_cast<const float*>(data)[at];
  }
}

__device__ inline void store_as(DType dtype, void* data, int64_t at, float value) {
  switch (dtype) {
    case DType::bfloat16:
      static_cast<bfloat16*>(data)[at] = from_float<bfloat16>(value);
      break;
    case DType::float16:
      static_cast<float16*>(data)[at] = from_float<float16>(value);
      break;
    default:
      static_cast<float*>(data)[at] = value;
  }
}

}  // namespace moe::cuda
