// The emulated devices: what they say of themselves, waiting for one, entry points of the driver.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "cuda.h"
#include "device_limits.h"
#include "simt/control.h"
#include "state.h"

using namespace simt;

namespace {

constexpr int kVersion = 13000;
constexpr int kClockKilohertz = 1'000'000;

int compute_capability(int device) {
  const int first = settings().first_compute_capability;
  return device == 0 && first != 0 ? first : settings().compute_capability;
}

bool exists(int device) {
  return device >= 0 && device < static_cast<int>(runtime().devices.size());
}

struct EntryPoint {
  const char* name;
  void* function;
};

}  // namespace

cudaError_t cudaGetDeviceCount(int* count) {
  if (count == nullptr) return result(cudaErrorInvalidValue);
  *count = 0;
  if (settings().driver < kVersion) return result(cudaErrorInsufficientDriver);
  *count = static_cast<int>(runtime().devices.size());
  return result(*count == 0 ? cudaErrorNoDevice : cudaSuccess);
}

cudaError_t cudaSetDevice(int device) {
  if (!exists(device)) return result(cudaErrorInvalidDevice);
  current_device() = device;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  if (device == nullptr) return result(cudaErrorInvalidValue);
  if (runtime().devices.empty()) return result(cudaErrorNoDevice);
  *device = current_device();
  return cudaSuccess;
}

cudaError_t cudaInitDevice(int device, unsigned, unsigned) {
  return exists(device) ? cudaSuccess : result(cudaErrorInvalidDevice);
}

// How the host waits: of no consequence here.
cudaError_t cudaSetDeviceFlags(unsigned) {
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (properties == nullptr) return result(cudaErrorInvalidValue);
  if (!exists(device)) return result(cudaErrorInvalidDevice);
  const DeviceLimits limits = device_limits();
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "SIMT emulation, sm_%d",
                compute_capability(device));
  properties->uuid.bytes[0] = static_cast<char>(device + 1);
  properties->totalGlobalMem = settings().memory;
  properties->sharedMemPerBlock = limits.shared_per_block;
  properties->sharedMemPerBlockOptin = limits.shared_per_block_opt_in;
  properties->sharedMemPerMultiprocessor = limits.shared_per_multiprocessor;
  properties->reservedSharedMemPerBlock = limits.shared_reserved;
  properties->regsPerBlock = properties->regsPerMultiprocessor = limits.registers;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = limits.threads_per_block;
  properties->maxThreadsPerMultiProcessor = limits.threads_per_multiprocessor;
  properties->maxBlocksPerMultiProcessor = limits.blocks_per_multiprocessor;
  std::copy_n(limits.block_size, 3, properties->maxThreadsDim);
  std::copy_n(limits.grid_size, 3, properties->maxGridSize);
  properties->major = compute_capability(device) / 10;
  properties->minor = compute_capability(device) % 10;
  properties->multiProcessorCount = settings().multiprocessors;
  properties->pciBusID = device + 1;
  properties->memoryBusWidth = 5120;
  properties->l2CacheSize = settings().l2;
  properties->memoryPoolsSupported = 1;
  properties->clusterLaunch = limits.clusters ? 1 : 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (value == nullptr) return result(cudaErrorInvalidValue);
  cudaDeviceProp all = {};
  if (const cudaError_t error = cudaGetDeviceProperties(&all, device); error != cudaSuccess) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = all.maxThreadsPerBlock;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(all.sharedMemPerBlock);
      break;
    case cudaDevAttrWarpSize:
      *value = all.warpSize;
      break;
    case cudaDevAttrMaxRegistersPerBlock:
      *value = all.regsPerBlock;
      break;
    case cudaDevAttrClockRate:
      *value = kClockKilohertz;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = all.multiProcessorCount;
      break;
    case cudaDevAttrL2CacheSize:
      *value = all.l2CacheSize;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = all.maxThreadsPerMultiProcessor;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = all.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = all.minor;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(all.sharedMemPerMultiprocessor);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(all.sharedMemPerBlockOptin);
      break;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
      *value = all.maxBlocksPerMultiProcessor;
      break;
    case cudaDevAttrMemoryPoolsSupported:
      *value = all.memoryPoolsSupported;
      break;
    case cudaDevAttrClusterLaunch:
      *value = all.clusterLaunch;
      break;
    default:
      return result(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  if (text == nullptr || length < 13) return result(cudaErrorInvalidValue);
  if (!exists(device)) return result(cudaErrorInvalidDevice);
  std::snprintf(text, static_cast<size_t>(length), "0000:%02x:00.0", device + 1);
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  if (version == nullptr) return result(cudaErrorInvalidValue);
  *version = settings().driver;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  if (version == nullptr) return result(cudaErrorInvalidValue);
  *version = kVersion;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least != nullptr) *least = 0;
  if (greatest != nullptr) *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  Lock lock(runtime().lock);
  if (forbidden_by_capture()) return result(cudaErrorStreamCaptureUnsupported);
  bring_about_device(lock, current_device());
  trim_pool_after_wait(current_device());
  return result(device_now().sticky);
}

// Drops pending work and failures of every device; unlike CUDA's it leaves memory alone.
cudaError_t cudaDeviceReset() {
  reset();
  return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned,
                                             unsigned long long, cudaDriverEntryPointQueryResult* status) {
  if (symbol == nullptr || function == nullptr) return result(cudaErrorInvalidValue);
  const EntryPoint known[] = {{"cuTensorMapEncodeTiled", reinterpret_cast<void*>(&cuTensorMapEncodeTiled)}};
  *function = nullptr;
  for (const EntryPoint& each : known) {
    if (std::strcmp(each.name, symbol) == 0) *function = each.function;
  }
  const bool found = *function != nullptr;
  if (status != nullptr) *status = found ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return result(found || status != nullptr ? cudaSuccess : cudaErrorSymbolNotFound);
}

cudaError_t cudaGetDriverEntryPoint(const char* symbol, void** function, unsigned long long flags,
                                    cudaDriverEntryPointQueryResult* status) {
  return cudaGetDriverEntryPointByVersion(symbol, function, kVersion, flags, status);
}
