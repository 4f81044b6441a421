// The runtime's state, its last errors, and the start over that tests ask for.
#include "state.h"

#include <utility>

#include "device_memory.h"
#include "launch.h"
#include "report.h"
#include "simt/control.h"

namespace simt {
namespace {

thread_local cudaError_t last_error = cudaSuccess;

void add_devices(Runtime& fresh) {
  for (int index = 0; index < settings().devices; ++index) {
    auto device = std::make_unique<Device>();
    device->index = index;
    device->legacy = std::make_shared<CUstream_st>();
    device->legacy->device = index;
    device->legacy->legacy = true;
    fresh.streams.push_back(device->legacy);
    fresh.devices.push_back(std::move(device));
  }
}

}  // namespace

Runtime& runtime() {
  static auto* const state = [] {
    auto* const fresh = new Runtime;
    add_devices(*fresh);
    return fresh;
  }();
  return *state;
}

int& current_device() {
  thread_local int device = 0;
  return device;
}

Device& device_now() {
  return *runtime().devices.at(static_cast<size_t>(current_device()));
}

cudaError_t result(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

cudaError_t refuse(cudaError_t error, const std::string& text) {
  publish_report(text);
  return result(error);
}

void reset() {
  Runtime& all = runtime();
  const std::lock_guard hold(all.lock);
  for (const StreamPointer& stream : all.streams) {
    stream->queue.clear();
    stream->completed = stream->enqueued;
    stream->capture.reset();
  }
  for (const auto& device : all.devices) device->sticky = cudaSuccess;
  all.captures.clear();
  all.wanted.clear();
  last_error = cudaSuccess;
  forget_report();
  restart_launch_numbers();
  all.changed.notify_all();
}

size_t bytes_in_use() {
  size_t sum = 0;
  for (const auto& device : runtime().devices) {
    sum += device_memory().bytes_in_use(MemoryKind::device, device->index) +
           device_memory().bytes_in_use(MemoryKind::pinned, device->index);
  }
  return sum;
}

}  // namespace simt

using namespace simt;

namespace {

cudaError_t sticky_error() {
  Runtime& all = runtime();
  const std::lock_guard hold(all.lock);
  return all.devices.empty() ? cudaSuccess : device_now().sticky;
}

}  // namespace

cudaError_t cudaGetLastError() {
  const cudaError_t error = std::exchange(last_error, cudaSuccess);
  const cudaError_t sticky = sticky_error();
  return sticky != cudaSuccess ? sticky : error;
}

cudaError_t cudaPeekAtLastError() {
  const cudaError_t sticky = sticky_error();
  return sticky != cudaSuccess ? sticky : last_error;
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
#define SIMT_ERROR_NAME(name, number, text) \
  case name:                                \
    return #name;
    SIMT_CUDA_ERRORS(SIMT_ERROR_NAME)
#undef SIMT_ERROR_NAME
  }
  return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
#define SIMT_ERROR_TEXT(name, number, text) \
  case name:                                \
    return text;
    SIMT_CUDA_ERRORS(SIMT_ERROR_TEXT)
#undef SIMT_ERROR_TEXT
  }
  return "unrecognized error code";
}
