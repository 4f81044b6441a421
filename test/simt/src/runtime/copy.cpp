// Copies and fills. An asynchronous copy is done when its stream gets there, from and to pageable memory too:
// CUDA may do it sooner, and a program must not count on that.
#include <cstring>

#include "device_memory.h"
#include "report.h"
#include "state.h"

using namespace simt;

namespace {

std::string span(const void* pointer, size_t bytes) {
  return std::to_string(bytes) + " bytes at " + device_memory().describe(pointer);
}

// Whether the device may touch [pointer, pointer + bytes) as DEVICE memory, or as the host's.
bool valid_side(const void* pointer, size_t bytes, bool device) {
  const auto inside = device_memory().holding(pointer, bytes);
  if (device) return inside.has_value();
  if (inside) return inside->kind == MemoryKind::pinned;
  return true;  // pageable, of which nothing is known
}

bool from_device(cudaMemcpyKind kind, const void* from) {
  if (kind != cudaMemcpyDefault) return kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  return device_memory().holding(from, 0).has_value();
}

bool to_device(cudaMemcpyKind kind, const void* to) {
  if (kind != cudaMemcpyDefault) return kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  return device_memory().holding(to, 0).has_value();
}

cudaError_t check_copy(const void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) return result(cudaErrorInvalidMemcpyDirection);
  if (!valid_side(from, bytes, from_device(kind, from))) {
    return refuse(cudaErrorInvalidValue, "cudaMemcpy: cannot read " + span(from, bytes));
  }
  if (!valid_side(to, bytes, to_device(kind, to))) {
    return refuse(cudaErrorInvalidValue, "cudaMemcpy: cannot write " + span(to, bytes));
  }
  return cudaSuccess;
}

cudaError_t enqueue_on(cudaStream_t stream, Action action) {
  Lock lock(runtime().lock);
  const StreamPointer found = find_stream(stream);
  if (!found) return result(cudaErrorInvalidResourceHandle);
  return result(enqueue(lock, found, std::move(action)));
}

}  // namespace

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  if (const cudaError_t error = check_copy(to, from, bytes, kind); error != cudaSuccess) return error;
  return enqueue_on(stream, [=] {
    std::memmove(to, from, bytes);
    return cudaSuccess;
  });
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return error != cudaSuccess ? error : cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  if (!valid_side(to, bytes, true)) {
    return refuse(cudaErrorInvalidValue, "cudaMemset: cannot write " + span(to, bytes));
  }
  return enqueue_on(stream, [=] {
    std::memset(to, value, bytes);
    return cudaSuccess;
  });
}

// Asynchronous to the host, as CUDA's is for device memory.
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  return cudaMemsetAsync(to, value, bytes, nullptr);
}
