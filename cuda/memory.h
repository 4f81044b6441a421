// Device memory in the order of a stream, and pinned host memory to stage copies in.
#pragma once

#include <memory>

#include "cuda/runtime.h"
#include "ops/tensor.h"

namespace moe::cuda {

// A stream and the device it belongs to. Storage keeps it alive, because it is freed in its order.
class Stream {
 public:
  explicit Stream(int device);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const { return stream_; }
  int device() const { return device_; }

 private:
  int device_;
  cudaStream_t stream_ = nullptr;
};

// Uninitialised memory that may be used by what is enqueued on the stream from now on, and is given back when
// all that was enqueued before its end has run. Throws ERR_OUT_OF_MEMORY.
std::shared_ptr<Storage> allocate_device(const std::shared_ptr<Stream>& stream, size_t bytes);

// Page-locked host memory, kept for reuse: getting it is slow.
std::shared_ptr<Storage> allocate_pinned(size_t bytes);

}  // namespace moe::cuda
