// Streams: adding work, doing it when somebody waits, in order and after what it depends on.
#include <algorithm>
#include <utility>

#include "state.h"

namespace simt {
namespace {

// As late as wants are served: the program goes on meanwhile.
constexpr auto kPatience = std::chrono::microseconds(300);

void serve_wants() {
  Runtime& all = runtime();
  Lock lock(all.lock);
  for (;;) {
    all.wanted_changed.wait(lock, [&] { return !all.wanted.empty(); });
    lock.unlock();
    std::this_thread::sleep_for(kPatience);
    lock.lock();
    for (const Point& point : std::exchange(all.wanted, {})) bring_about(lock, point);
  }
}

bool blocking(const CUstream_st& stream) {
  return !stream.legacy && (stream.flags & cudaStreamNonBlocking) == 0;
}

// What the legacy stream's order asks of new work: it waits for every blocking stream, and they for it.
std::vector<Point> implied_dependencies(const CUstream_st& stream) {
  std::vector<Point> points;
  for (const StreamPointer& other : runtime().streams) {
    if (other.get() == &stream || other->device != stream.device || other->completed == other->enqueued)
      continue;
    const bool implied = (stream.legacy && blocking(*other)) || (other->legacy && blocking(stream));
    if (implied) points.push_back({.stream = other, .number = other->enqueued});
  }
  return points;
}

cudaError_t capture_node(const StreamPointer& stream, Action action) {
  Capture& capture = *stream->capture;
  if (capture.invalid) return cudaErrorStreamCaptureInvalidated;
  capture.nodes.push_back(std::move(action));
  ++stream->clock[stream.get()];
  return cudaSuccess;
}

// The legacy stream may not be used while a blocking stream captures: it would depend on the capture.
bool legacy_meets_capture(const CUstream_st& stream) {
  if (!stream.legacy) return false;
  bool met = false;
  for (const auto& capture : runtime().captures) {
    for (const StreamPointer& member : capture->members) {
      if (member->device != stream.device || !blocking(*member)) continue;
      capture->invalid = true;
      met = true;
    }
  }
  return met;
}

}  // namespace

StreamPointer find_stream(cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy) return device_now().legacy;
  for (const StreamPointer& stream : runtime().streams) {
    if (stream.get() == handle && !stream->destroyed) return stream;
  }
  return nullptr;
}

cudaError_t enqueue(Lock&, const StreamPointer& stream, Action action) {
  const cudaError_t sticky = runtime().devices[static_cast<size_t>(stream->device)]->sticky;
  if (sticky != cudaSuccess) return sticky;
  if (stream->capture) return capture_node(stream, std::move(action));
  if (legacy_meets_capture(*stream)) return cudaErrorStreamCaptureImplicit;
  stream->queue.push_back({.action = std::move(action), .after = implied_dependencies(*stream)});
  ++stream->enqueued;
  return cudaSuccess;
}

void bring_about(Lock& lock, const Point& point) {
  CUstream_st& stream = *point.stream;
  Runtime& all = runtime();
  while (stream.completed < point.number) {
    if (stream.busy) {
      all.changed.wait(lock);
      continue;
    }
    stream.busy = true;
    const Work work = std::move(stream.queue.front());
    stream.queue.pop_front();
    for (const Point& earlier : work.after) bring_about(lock, earlier);
    cudaError_t& sticky = all.devices[static_cast<size_t>(stream.device)]->sticky;
    if (sticky == cudaSuccess && work.action) {
      lock.unlock();
      const cudaError_t error = work.action();
      lock.lock();
      if (sticky == cudaSuccess) sticky = error;
    }
    stream.busy = false;
    stream.completed = std::min(stream.completed + 1, stream.enqueued);
    all.changed.notify_all();
  }
}

void bring_about_device(Lock& lock, int device) {
  const std::vector<StreamPointer> streams = runtime().streams;
  for (const StreamPointer& stream : streams) {
    if (stream->device == device) bring_about(lock, {.stream = stream, .number = stream->enqueued});
  }
  std::erase_if(runtime().streams, [](const StreamPointer& stream) {
    return stream->destroyed && stream->completed == stream->enqueued;
  });
}

void want(const Point& point) {
  static std::once_flag once;
  std::call_once(once, [] { std::thread(serve_wants).detach(); });
  runtime().wanted.push_back(point);
  runtime().wanted_changed.notify_one();
}

}  // namespace simt

using namespace simt;

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  if (stream == nullptr || flags > cudaStreamNonBlocking) return result(cudaErrorInvalidValue);
  const Lock lock(runtime().lock);
  auto fresh = std::make_shared<CUstream_st>();
  fresh->device = current_device();
  fresh->flags = flags;
  fresh->priority = priority;
  *stream = fresh.get();
  runtime().streams.push_back(std::move(fresh));
  return result(device_now().sticky);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

// Returns at once; work that is pending is done when a wait for the device, or for an event of the stream,
// asks.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Lock lock(runtime().lock);
  const StreamPointer found = find_stream(stream);
  if (!found || found->legacy) return result(cudaErrorInvalidResourceHandle);
  found->destroyed = true;
  if (found->capture) found->capture->invalid = true;
  if (found->completed == found->enqueued) std::erase(runtime().streams, found);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Lock lock(runtime().lock);
  const StreamPointer found = find_stream(stream);
  if (!found) return result(cudaErrorInvalidResourceHandle);
  if (found->capture) {
    found->capture->invalid = true;
    return result(cudaErrorStreamCaptureUnsupported);
  }
  if (legacy_meets_capture(*found)) return result(cudaErrorStreamCaptureImplicit);
  bring_about(lock, {.stream = found, .number = found->enqueued});
  if (found->legacy) {
    for (const Point& point : implied_dependencies(*found)) bring_about(lock, point);
  }
  trim_pool_after_wait(found->device);
  return result(runtime().devices[static_cast<size_t>(found->device)]->sticky);
}

// cudaErrorNotReady where work is pending; whoever polls sees it done in the end.
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const Lock lock(runtime().lock);
  const StreamPointer found = find_stream(stream);
  if (!found) return result(cudaErrorInvalidResourceHandle);
  if (found->capture) {
    found->capture->invalid = true;
    return result(cudaErrorStreamCaptureUnsupported);
  }
  const cudaError_t sticky = runtime().devices[static_cast<size_t>(found->device)]->sticky;
  if (sticky != cudaSuccess) return result(sticky);
  if (found->completed == found->enqueued) return cudaSuccess;
  want({.stream = found, .number = found->enqueued});
  return result(cudaErrorNotReady);
}

cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned* flags) {
  const Lock lock(runtime().lock);
  const StreamPointer found = find_stream(stream);
  if (!found || flags == nullptr) return result(cudaErrorInvalidResourceHandle);
  *flags = found->flags;
  return cudaSuccess;
}

cudaError_t cudaStreamGetPriority(cudaStream_t stream, int* priority) {
  const Lock lock(runtime().lock);
  const StreamPointer found = find_stream(stream);
  if (!found || priority == nullptr) return result(cudaErrorInvalidResourceHandle);
  *priority = found->priority;
  return cudaSuccess;
}

cudaError_t cudaStreamGetDevice(cudaStream_t stream, int* device) {
  const Lock lock(runtime().lock);
  const StreamPointer found = find_stream(stream);
  if (!found || device == nullptr) return result(cudaErrorInvalidResourceHandle);
  *device = found->device;
  return cudaSuccess;
}

// The function runs on the thread that waits for it, or on the runtime's own; not at all once the device has
// failed.
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  Lock lock(runtime().lock);
  const StreamPointer found = find_stream(stream);
  if (!found) return result(cudaErrorInvalidResourceHandle);
  if (function == nullptr) return result(cudaErrorInvalidValue);
  const cudaError_t error = enqueue(lock, found, [function, data] {
    function(data);
    return cudaSuccess;
  });
  if (error == cudaSuccess && !found->capture) want({.stream = found, .number = found->enqueued});
  return result(error);
}
