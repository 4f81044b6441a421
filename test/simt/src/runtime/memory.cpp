// Memory of the emulated devices: allocations, the pool of each device, what a pointer is.
#include <algorithm>
#include <cstring>

#include "device_memory.h"
#include "report.h"
#include "simt/control.h"
#include "state.h"

namespace simt {
namespace {

// What the device's memory holds: the pool keeps more than is in use until it is trimmed.
size_t taken(const Device& device) {
  const size_t all = device_memory().bytes_in_use(MemoryKind::device, device.index);
  const size_t pooled = device_memory().pooled_bytes(device.index);
  return all - pooled + std::max<size_t>(pooled, device.reserved);
}

void trim(Device& device, uint64_t keep) {
  const uint64_t used = device_memory().pooled_bytes(device.index);
  device.reserved = std::max(used, std::min(device.reserved, keep));
}

// What pooled memory needs beyond what the pool has at hand.
size_t growth(const Device& device, size_t bytes) {
  const size_t wanted = device_memory().pooled_bytes(device.index) + bytes;
  return wanted > device.reserved ? wanted - device.reserved : 0;
}

bool fits(const Device& device, size_t bytes, bool pooled) {
  const size_t total = settings().memory;
  const size_t more = pooled ? growth(device, bytes) : bytes;
  return taken(device) <= total && more <= total - taken(device);
}

void* allocate(Lock& lock, Device& device, size_t bytes, bool pooled) {
  if (!fits(device, bytes, pooled)) {
    bring_about_device(lock, device.index);  // frees that were queued
    trim(device, 0);
  }
  if (!fits(device, bytes, pooled)) return nullptr;
  void* const pointer = device_memory().allocate(bytes, MemoryKind::device, device.index, pooled);
  if (pointer == nullptr || !pooled) return pointer;
  const uint64_t used = device_memory().pooled_bytes(device.index);
  device.used_high = std::max(device.used_high, used);
  device.reserved = std::max(device.reserved, used);
  device.reserved_high = std::max(device.reserved_high, device.reserved);
  return pointer;
}

// Memory of a graph: as long as the graph lives, poisoned whenever its node runs.
cudaError_t allocate_in_capture(Lock& lock, Device& device, const StreamPointer& stream, void** pointer,
                                size_t bytes) {
  void* const fresh = allocate(lock, device, bytes, true);
  if (fresh == nullptr) return cudaErrorMemoryAllocation;
  const auto action = [fresh, bytes] {
    std::memset(fresh, 0xff, bytes);
    return cudaSuccess;
  };
  const cudaError_t error = enqueue(lock, stream, action);
  const std::shared_ptr<void> owner(fresh, [](void* memory) { device_memory().release(memory); });
  if (error != cudaSuccess) return error;
  device_memory().begin_release(fresh);  // only the graph may free it
  stream->capture->memory.push_back(owner);
  *pointer = fresh;
  return cudaSuccess;
}

bool belongs_to(const Capture& capture, const void* pointer) {
  return std::any_of(capture.memory.begin(), capture.memory.end(),
                     [&](const std::shared_ptr<void>& each) { return each.get() == pointer; });
}

std::string bad_free(const char* call, const void* pointer) {
  return std::string(call) + ": no live allocation starts there: " + device_memory().describe(pointer);
}

Device* device_of_pool(cudaMemPool_t pool) {
  for (const auto& device : runtime().devices) {
    if (reinterpret_cast<cudaMemPool_t>(device.get()) == pool) return device.get();
  }
  return nullptr;
}

}  // namespace

void trim_pool_after_wait(int device) {
  Device& found = *runtime().devices[static_cast<size_t>(device)];
  trim(found, found.release_threshold);
}

}  // namespace simt

using namespace simt;

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  if (pointer == nullptr) return result(cudaErrorInvalidValue);
  Lock lock(runtime().lock);
  *pointer = nullptr;
  if (forbidden_by_capture()) return result(cudaErrorStreamCaptureUnsupported);
  if (device_now().sticky != cudaSuccess) return result(device_now().sticky);
  if (bytes == 0) return cudaSuccess;
  *pointer = allocate(lock, device_now(), bytes, false);
  return result(*pointer == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}

// Waits for the device first: work that uses the memory may be pending.
cudaError_t cudaFree(void* pointer) {
  Lock lock(runtime().lock);
  if (pointer == nullptr) return result(device_now().sticky);
  if (forbidden_by_capture()) return result(cudaErrorStreamCaptureUnsupported);
  const auto found = device_memory().starting_at(pointer);
  if (!found || found->kind != MemoryKind::device || found->releasing) {
    return refuse(cudaErrorInvalidValue, bad_free("cudaFree", pointer));
  }
  bring_about_device(lock, found->device);
  device_memory().release(pointer);
  return result(device_now().sticky);
}

cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t stream) {
  if (pointer == nullptr || bytes == 0) return result(cudaErrorInvalidValue);
  Lock lock(runtime().lock);
  *pointer = nullptr;
  const StreamPointer found = find_stream(stream);
  if (!found) return result(cudaErrorInvalidResourceHandle);
  Device& device = *runtime().devices[static_cast<size_t>(found->device)];
  if (device.sticky != cudaSuccess) return result(device.sticky);
  if (found->capture) return result(allocate_in_capture(lock, device, found, pointer, bytes));
  *pointer = allocate(lock, device, bytes, true);
  return result(*pointer == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}

cudaError_t cudaMallocFromPoolAsync(void** pointer, size_t bytes, cudaMemPool_t pool, cudaStream_t stream) {
  {
    const Lock lock(runtime().lock);
    const StreamPointer found = find_stream(stream);
    const Device* const device = device_of_pool(pool);
    if (!found || device == nullptr || device->index != found->device) return result(cudaErrorInvalidValue);
  }
  return cudaMallocAsync(pointer, bytes, stream);
}

// The memory is gone when the stream's work gets there.
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  Lock lock(runtime().lock);
  const StreamPointer found = find_stream(stream);
  if (!found) return result(cudaErrorInvalidResourceHandle);
  if (found->capture && belongs_to(*found->capture, pointer)) {
    return result(enqueue(lock, found, [] { return cudaSuccess; }));
  }
  if (found->capture)
    return refuse(cudaErrorNotSupported, "cudaFreeAsync in a capture: of memory that is not the graph's");
  const auto allocation = device_memory().starting_at(pointer);
  if (!allocation || allocation->kind != MemoryKind::device || !device_memory().begin_release(pointer)) {
    return refuse(cudaErrorInvalidValue, bad_free("cudaFreeAsync", pointer));
  }
  return result(enqueue(lock, found, [pointer] {
    device_memory().release(pointer);
    return cudaSuccess;
  }));
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  if (pointer == nullptr) return result(cudaErrorInvalidValue);
  const Lock lock(runtime().lock);
  *pointer = nullptr;
  if (forbidden_by_capture()) return result(cudaErrorStreamCaptureUnsupported);
  if (bytes == 0) return cudaSuccess;
  *pointer = device_memory().allocate(bytes, MemoryKind::pinned, current_device(), false);
  return result(*pointer == nullptr ? cudaErrorMemoryAllocation : device_now().sticky);
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  return cudaHostAlloc(pointer, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void* pointer) {
  Lock lock(runtime().lock);
  if (pointer == nullptr) return cudaSuccess;
  if (forbidden_by_capture()) return result(cudaErrorStreamCaptureUnsupported);
  const auto found = device_memory().starting_at(pointer);
  if (!found || found->kind != MemoryKind::pinned) {
    return refuse(cudaErrorInvalidValue, bad_free("cudaFreeHost", pointer));
  }
  for (const auto& device : runtime().devices) bring_about_device(lock, device->index);
  device_memory().release(pointer);
  return result(device_now().sticky);
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  if (free == nullptr || total == nullptr) return result(cudaErrorInvalidValue);
  const Lock lock(runtime().lock);
  *total = settings().memory;
  *free = *total - std::min(*total, taken(device_now()));
  return result(device_now().sticky);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  if (attributes == nullptr) return result(cudaErrorInvalidValue);
  const auto found = device_memory().holding(pointer, 0);
  auto* const address = const_cast<void*>(pointer);
  if (!found) {
    *attributes = {
        .type = cudaMemoryTypeUnregistered, .device = -2, .devicePointer = nullptr, .hostPointer = address};
    return cudaSuccess;
  }
  const bool pinned = found->kind == MemoryKind::pinned;
  *attributes = {.type = pinned ? cudaMemoryTypeHost : cudaMemoryTypeDevice,
                 .device = found->device,
                 .devicePointer = address,
                 .hostPointer = pinned ? address : nullptr};
  return cudaSuccess;
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  const Lock lock(runtime().lock);
  if (pool == nullptr) return result(cudaErrorInvalidValue);
  if (device < 0 || device >= static_cast<int>(runtime().devices.size()))
    return result(cudaErrorInvalidDevice);
  *pool = reinterpret_cast<cudaMemPool_t>(runtime().devices[static_cast<size_t>(device)].get());
  return cudaSuccess;
}

cudaError_t cudaDeviceGetMemPool(cudaMemPool_t* pool, int device) {
  return cudaDeviceGetDefaultMemPool(pool, device);
}

// The release threshold can be set, and the high-water marks to 0; how memory is reused is of no consequence
// here.
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  const Lock lock(runtime().lock);
  Device* const device = device_of_pool(pool);
  if (device == nullptr || value == nullptr) return result(cudaErrorInvalidValue);
  switch (attribute) {
    case cudaMemPoolAttrReleaseThreshold:
      device->release_threshold = *static_cast<uint64_t*>(value);
      return cudaSuccess;
    case cudaMemPoolAttrReservedMemHigh:
      device->reserved_high = device->reserved;
      return *static_cast<uint64_t*>(value) == 0 ? cudaSuccess : result(cudaErrorInvalidValue);
    case cudaMemPoolAttrUsedMemHigh:
      device->used_high = device_memory().pooled_bytes(device->index);
      return *static_cast<uint64_t*>(value) == 0 ? cudaSuccess : result(cudaErrorInvalidValue);
    case cudaMemPoolReuseFollowEventDependencies:
    case cudaMemPoolReuseAllowOpportunistic:
    case cudaMemPoolReuseAllowInternalDependencies:
      return cudaSuccess;
    default:
      return result(cudaErrorInvalidValue);
  }
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  const Lock lock(runtime().lock);
  const Device* const device = device_of_pool(pool);
  if (device == nullptr || value == nullptr) return result(cudaErrorInvalidValue);
  auto& number = *static_cast<uint64_t*>(value);
  switch (attribute) {
    case cudaMemPoolAttrReleaseThreshold:
      number = device->release_threshold;
      return cudaSuccess;
    case cudaMemPoolAttrReservedMemCurrent:
      number = device->reserved;
      return cudaSuccess;
    case cudaMemPoolAttrReservedMemHigh:
      number = device->reserved_high;
      return cudaSuccess;
    case cudaMemPoolAttrUsedMemCurrent:
      number = device_memory().pooled_bytes(device->index);
      return cudaSuccess;
    case cudaMemPoolAttrUsedMemHigh:
      number = device->used_high;
      return cudaSuccess;
    default:
      *static_cast<int*>(value) = 1;
      return cudaSuccess;
  }
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t bytes_to_keep) {
  const Lock lock(runtime().lock);
  Device* const device = device_of_pool(pool);
  if (device == nullptr) return result(cudaErrorInvalidValue);
  trim(*device, bytes_to_keep);
  return cudaSuccess;
}
