// The CUDA runtime with its errors turned into ours.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "ops/error.h"

namespace moe::cuda {

// Throws unless the call succeeded: ERR_OUT_OF_MEMORY, or ERR_DEVICE with the name that CUDA gives the error.
inline void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // Forgotten, unless it is one that the context never recovers from.
  const char* code = status == cudaErrorMemoryAllocation ? kErrOutOfMemory : kErrDevice;
  throw Error(code, std::string(call) + ": " + cudaGetErrorName(status) + ", " + cudaGetErrorString(status));
}

// What kernels are configured for.
struct DeviceLimits {
  int index = 0;
  int multiprocessors = 0;
  int compute_capability = 0;  // 80, 90, …
  int shared_bytes = 0;        // of a block, opted in
};

// Makes a device the calling thread's own for as long as it lives.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (device != before_) check(cudaSetDevice(device), "cudaSetDevice");
  }
  ~CurrentDevice() { cudaSetDevice(before_); }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int before_ = 0;
};

}  // namespace moe::cuda
