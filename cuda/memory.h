// Device memory in the order of a stream.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "cuda/runtime.h"
#include "ops/tensor.h"

namespace moe::cuda {

class GraphMemory;

// A stream and the device it belongs to. Storage keeps it alive, because it is freed in its order.
class Stream {
 public:
  explicit Stream(int device);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const { return stream_; }
  int device() const { return device_; }

  // Gives device memory back when all that was enqueued before has run; while the stream captures, once it no
  // longer does, for a graph may free nothing but its own. On any thread.
  void free(void* data);

  // While the stream captures, memory comes from `memory`.
  void begin_capture(std::shared_ptr<GraphMemory> memory);
  cudaError_t end_capture(cudaGraph_t* graph);
  // Null unless it captures.
  const std::shared_ptr<GraphMemory>& graph_memory() const { return graph_memory_; }

 private:
  int device_;
  cudaStream_t stream_ = nullptr;
  std::shared_ptr<GraphMemory> graph_memory_;
  std::mutex mutex_;
  bool capturing_ = false;
  std::vector<void*> held_;
};

// Device memory that goes back in the order of a stream.
class DeviceStorage final : public Storage {
 public:
  DeviceStorage(void* data, size_t bytes, std::shared_ptr<Stream> stream)
      : Storage(data, bytes), stream_(std::move(stream)) {}
  ~DeviceStorage() override { stream_->free(data()); }
  bool freed_in_order() const override { return true; }

 private:
  std::shared_ptr<Stream> stream_;
};

// Uninitialised memory that may be used by what is enqueued on the stream from now on, and is given back when
// all that was enqueued before its end has run. Throws ERR_OUT_OF_MEMORY.
std::shared_ptr<Storage> allocate_device(const std::shared_ptr<Stream>& stream, size_t bytes);

// At least one byte, of a stream that does not capture, and nobody's yet.
void* allocate_in_order(const Stream& stream, size_t bytes);

}  // namespace moe::cuda
