// Events: places in streams to wait for, and times.
#include "state.h"

using namespace simt;

namespace {

bool known(cudaEvent_t event) {
  return runtime().events.count(event) != 0;
}

cudaError_t invalidate(const std::shared_ptr<Capture>& capture, cudaError_t error) {
  capture->invalid = true;
  return result(error);
}

// In a capture, a wait brings the waiting stream into it and joins what the event saw.
cudaError_t wait_while_capturing(const StreamPointer& stream, const CUevent_st& event) {
  if (!event.capture) return invalidate(stream->capture, cudaErrorStreamCaptureIsolation);
  if (stream->legacy) return invalidate(event.capture, cudaErrorStreamCaptureImplicit);
  if (stream->capture && stream->capture != event.capture) {
    stream->capture->invalid = true;
    return invalidate(event.capture, cudaErrorStreamCaptureMerge);
  }
  if (!stream->capture) {
    stream->capture = event.capture;
    stream->clock.clear();
    event.capture->members.push_back(stream);
  }
  for (const auto& [other, count] : event.clock) {
    uint64_t& mine = stream->clock[other];
    mine = std::max(mine, count);
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  if (event == nullptr) return result(cudaErrorInvalidValue);
  const Lock lock(runtime().lock);
  *event = new CUevent_st;
  (*event)->flags = flags;
  (*event)->device = current_device();
  runtime().events.insert(*event);
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Lock lock(runtime().lock);
  if (runtime().events.erase(event) == 0) return result(cudaErrorInvalidResourceHandle);
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Lock lock(runtime().lock);
  const StreamPointer found = find_stream(stream);
  if (!found || !known(event) || event->device != found->device)
    return result(cudaErrorInvalidResourceHandle);
  if (found->capture) {
    if (found->capture->invalid) return result(cudaErrorStreamCaptureInvalidated);
    event->capture = found->capture;
    event->clock = found->clock;
    event->point = {};
    return cudaSuccess;
  }
  const auto stamp = std::make_shared<std::chrono::steady_clock::time_point>();
  const cudaError_t error = enqueue(lock, found, [stamp] {
    *stamp = std::chrono::steady_clock::now();
    return cudaSuccess;
  });
  if (error != cudaSuccess) return result(error);
  event->capture.reset();
  event->stamp = stamp;
  event->point = {.stream = found, .number = found->enqueued};
  return cudaSuccess;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
  return flags == cudaEventRecordDefault ? cudaEventRecord(event, stream) : result(cudaErrorNotSupported);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  Lock lock(runtime().lock);
  const StreamPointer found = find_stream(stream);
  if (!found || !known(event)) return result(cudaErrorInvalidResourceHandle);
  if (flags != cudaEventWaitDefault) return result(cudaErrorInvalidValue);
  if (found->capture || event->capture) return wait_while_capturing(found, *event);
  if (!event->point.stream) return cudaSuccess;  // never recorded: nothing to wait for
  const cudaError_t error = enqueue(lock, found, {});
  if (error == cudaSuccess) found->queue.back().after.push_back(event->point);
  return result(error);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Lock lock(runtime().lock);
  if (!known(event)) return result(cudaErrorInvalidResourceHandle);
  if (event->capture) return invalidate(event->capture, cudaErrorCapturedEvent);
  const Point point = event->point;
  const int device = event->device;
  if (point.stream) bring_about(lock, point);
  trim_pool_after_wait(device);
  return result(runtime().devices[static_cast<size_t>(device)]->sticky);
}

// cudaErrorNotReady where it was not reached; whoever polls sees it reached in the end.
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const Lock lock(runtime().lock);
  if (!known(event)) return result(cudaErrorInvalidResourceHandle);
  if (event->capture) return invalidate(event->capture, cudaErrorCapturedEvent);
  if (forbidden_by_capture()) return result(cudaErrorStreamCaptureUnsupported);
  const cudaError_t sticky = runtime().devices[static_cast<size_t>(event->device)]->sticky;
  if (sticky != cudaSuccess) return result(sticky);
  if (!event->point.stream || event->point.stream->completed >= event->point.number) return cudaSuccess;
  want(event->point);
  return result(cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  const Lock lock(runtime().lock);
  if (milliseconds == nullptr) return result(cudaErrorInvalidValue);
  for (const cudaEvent_t event : {start, end}) {
    if (!known(event)) return result(cudaErrorInvalidResourceHandle);
    const bool untimed = (event->flags & cudaEventDisableTiming) != 0;
    if (untimed || !event->stamp || event->capture) return result(cudaErrorInvalidResourceHandle);
  }
  for (const cudaEvent_t event : {start, end}) {
    if (event->point.stream->completed < event->point.number) return result(cudaErrorNotReady);
  }
  *milliseconds = std::chrono::duration<float, std::milli>(*end->stamp - *start->stamp).count();
  return cudaSuccess;
}
