#include "cuda/devices.h"

#include <vector>

#include "ops/queue.h"

namespace moe::cuda {
namespace {

// The oldest that kernels are built for.
constexpr int kLeastMajor = 8;

// What the driver said when it was first asked.
struct Found {
  int count = 0;
  std::vector<std::string> names;
  std::string sentence;

  Found() {
    int devices = 0;
    const cudaError_t status = cudaGetDeviceCount(&devices);
    cudaGetLastError();
    if (status != cudaSuccess) {
      sentence = std::string("no CUDA device: ") + cudaGetErrorString(status);
      return;
    }
    for (; count < devices; ++count) {
      cudaDeviceProp properties;
      check(cudaGetDeviceProperties(&properties, count), "cudaGetDeviceProperties");
      if (properties.major < kLeastMajor) break;
      names.emplace_back(properties.name);
      sentence += (count > 0 ? ", cuda:" : "cuda:") + std::to_string(count) + " " + properties.name;
    }
    if (count == 0) sentence = "no CUDA device of compute capability 8.0 or newer";
  }
};

const Found& found() {
  static const Found devices;
  return devices;
}

}  // namespace

int device_count() {
  return found().count;
}

std::string device_name(int device) {
  return found().names.at(static_cast<size_t>(device));
}

const char* describe() {
  return found().sentence.c_str();
}

DeviceLimits limits_of(int device) {
  const auto attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
    return value;
  };
  return {.index = device,
          .multiprocessors = attribute(cudaDevAttrMultiProcessorCount),
          .compute_capability = 10 * attribute(cudaDevAttrComputeCapabilityMajor) +
                                attribute(cudaDevAttrComputeCapabilityMinor),
          .shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)};
}

}  // namespace moe::cuda
