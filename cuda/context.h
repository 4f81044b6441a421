// What an op needs to run on a device: where to enqueue, where to work, and where to leave word of bad
// indices.
#pragma once

#include <memory>

#include "cuda/failure.h"
#include "cuda/memory.h"
#include "cuda/stages.h"

namespace moe::cuda {

// A matrix that lives until what was enqueued while it existed has run.
struct Workspace {
  Tensor tensor;
  std::shared_ptr<Storage> storage;
};

class Context {
 public:
  Context(std::shared_ptr<Stream> stream, const DeviceLimits& limits, Failure* failure)
      : stream_(std::move(stream)), limits_(limits), failure_(failure) {}

  cudaStream_t stream() const { return stream_->get(); }
  const DeviceLimits& limits() const { return limits_; }

  Workspace workspace(int64_t rows, int64_t columns, DType dtype) const {
    Tensor tensor = {.dtype = dtype, .rank = 2, .dims = {rows, columns}, .present = true};
    auto storage = allocate_device(stream_, tensor.bytes());
    tensor.data = storage->data();
    return {tensor, std::move(storage)};
  }

  // Where kernels of the op that runs report to.
  FailureReport report(Argument argument) const { return {failure_, op_, argument}; }
  void begin(int op) { op_ = op; }

  // Where the time of the op's stages is noted, or null.
  StageRecording* recording() const { return recording_; }
  void record(StageRecording* recording, const char* op) {
    recording_ = recording;
    if (recording_ != nullptr) recording_->begin_op(op);
  }

 private:
  std::shared_ptr<Stream> stream_;
  DeviceLimits limits_;
  Failure* failure_;
  int op_ = 0;
  StageRecording* recording_ = nullptr;
};

// A stage of the op that is enqueued.
class StageTimer : public PartTimer {
 public:
  StageTimer(const Context& context, const char* stage) : PartTimer(context.recording(), stage) {}
};

}  // namespace moe::cuda
