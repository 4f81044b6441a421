#include "cuda/devices.h"

#include <vector>

namespace moe::cuda {
namespace {

// The oldest that kernels are built for.
constexpr int kLeastMajor = 8;

// "12.4" for 12040
std::string version(int number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

// 0 without a driver.
int driver_number() {
  int number = 0;
  cudaDriverGetVersion(&number);
  cudaGetLastError();
  return number;
}

std::string why_none(cudaError_t status) {
  if (driver_number() == 0) return "no NVIDIA driver";
  if (status == cudaErrorInsufficientDriver)
    return "the NVIDIA driver supports CUDA " + driver_version() + ", this build needs " + runtime_version();
  if (status == cudaErrorNoDevice) return "an NVIDIA driver for CUDA " + driver_version() + ", but no GPU";
  return std::string("no CUDA device: ") + cudaGetErrorName(status) + ", " + cudaGetErrorString(status);
}

// What the driver said when it was first asked.
struct Found {
  std::vector<Gpu> usable;
  std::string sentence;

  Found() {
    int devices = 0;
    const cudaError_t status = cudaGetDeviceCount(&devices);
    if (status != cudaSuccess) {
      sentence = why_none(status);
      return;
    }
    for (int device = 0; device < devices; ++device) add(device);
  }

  void add(int device) {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    const std::string capability = std::to_string(properties.major) + "." + std::to_string(properties.minor);
    sentence += (sentence.empty() ? "cuda:" : ", cuda:") + std::to_string(device) + " " + properties.name;
    if (properties.major < kLeastMajor) {
      sentence += " (too old: compute capability " + capability + ", 8.0 or newer is needed)";
    } else {
      sentence += " (compute capability " + capability + ")";
      int clock_khz = 0;
      check(cudaDeviceGetAttribute(&clock_khz, cudaDevAttrClockRate, device), "cudaDeviceGetAttribute");
      usable.push_back({.index = device,
                        .name = properties.name,
                        .compute_capability = capability,
                        .l2_bytes = static_cast<size_t>(properties.l2CacheSize),
                        .memory_bytes = properties.totalGlobalMem,
                        .clock_khz = clock_khz});
    }
  }
};

const Found& found() {
  static const Found devices;
  return devices;
}

}  // namespace

const std::vector<Gpu>& gpus() {
  return found().usable;
}

std::string driver_version() {
  return version(driver_number());
}

std::string runtime_version() {
  int number = 0;
  cudaRuntimeGetVersion(&number);
  return version(number);
}

const char* describe() {
  return found().sentence.c_str();
}

void check_memory_of(int device, const void* data) {
  cudaPointerAttributes attributes = {};
  if (cudaPointerGetAttributes(&attributes, data) != cudaSuccess) {
    cudaGetLastError();
    attributes.type = cudaMemoryTypeUnregistered;
  }
  const std::string expected = "pointer: expected memory of cuda:" + std::to_string(device) + ", got ";
  switch (attributes.type) {
    case cudaMemoryTypeManaged:
      return;
    case cudaMemoryTypeDevice:
      if (attributes.device == device) return;
      throw Error(kErrDeviceMismatch, expected + "memory of cuda:" + std::to_string(attributes.device));
    case cudaMemoryTypeHost:
      throw Error(kErrDeviceMismatch, expected + "memory of the host");
    default:
      throw Error(kErrInvalidArgument, expected + "an address that CUDA does not know");
  }
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
