// What the tests share: arrays on the emulated device, launches that wait, and a fresh runtime for each test.
#pragma once

#include <cuda_runtime.h>
#include <doctest.h>

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "simt/control.h"

namespace simt::test {

// Starts the runtime over, with its settings as they were, at both ends of a test.
class Fresh {
 public:
  Fresh() : before_(settings()) { reset(); }
  ~Fresh() {
    settings() = before_;
    reset();
  }
  Fresh(const Fresh&) = delete;
  Fresh& operator=(const Fresh&) = delete;

 private:
  Settings before_;
};

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count) {
    REQUIRE_EQ(cudaMalloc(&data_, count * sizeof(T)), cudaSuccess);
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    REQUIRE_EQ(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return data_; }
  // Waits for the device.
  std::vector<T> values() const {
    std::vector<T> host(count_);
    REQUIRE_EQ(cudaMemcpy(host.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return host;
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};

struct Shape {
  dim3 grid = 1, block = 32;
  size_t shared = 0;
  dim3 cluster = 1;
  cudaStream_t stream = nullptr;
};

template <class... P, class... A>
cudaError_t launch(const Shape& shape, void (*kernel)(P...), A... arguments) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {shape.cluster.x, shape.cluster.y, shape.cluster.z};
  if (shape.shared > 48 * 1024) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared));
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared;
  config.stream = shape.stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// Launches and waits: the first error of the two.
template <class... P, class... A>
cudaError_t run(const Shape& shape, void (*kernel)(P...), A... arguments) {
  const cudaError_t error = launch(shape, kernel, arguments...);
  return error != cudaSuccess ? error : cudaDeviceSynchronize();
}

inline bool reported(const std::string& text) {
  return last_report().find(text) != std::string::npos;
}

}  // namespace simt::test
