#include "cuda/memory.h"

#include <algorithm>
#include <set>

#include "cuda/graph_memory.h"
#include "cuda/pinned.h"
#include "ops/gpus.h"

namespace moe::cuda {
namespace {

// GPUs that a stream was made for. Asking others for their pool would wake them up.
class UsedGpus {
 public:
  static UsedGpus& instance() {
    // Never destroyed: other threads may ask while the process exits.
    static auto* used = new UsedGpus();
    return *used;
  }

  void add(int gpu) {
    const std::lock_guard lock(mutex_);
    used_.insert(gpu);
  }

  std::set<int> all() {
    const std::lock_guard lock(mutex_);
    return used_;
  }

 private:
  std::mutex mutex_;
  std::set<int> used_;
};

cudaMemPool_t pool_of(int device) {
  cudaMemPool_t pool = nullptr;
  check(cudaDeviceGetDefaultMemPool(&pool, device), "cudaDeviceGetDefaultMemPool");
  return pool;
}

uint64_t read(cudaMemPool_t pool, cudaMemPoolAttr attribute) {
  uint64_t value = 0;
  check(cudaMemPoolGetAttribute(pool, attribute, &value), "cudaMemPoolGetAttribute");
  return value;
}

}  // namespace

Stream::Stream(int device) : device_(device) {
  const CurrentDevice current(device);
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  // What is freed stays with the pool: the driver would return it to the system at every wait.
  uint64_t kept = UINT64_MAX;
  check(cudaMemPoolSetAttribute(pool_of(device), cudaMemPoolAttrReleaseThreshold, &kept),
        "cudaMemPoolSetAttribute");
  UsedGpus::instance().add(device);
}

Stream::~Stream() {
  cudaStreamDestroy(stream_);
}

void Stream::free(void* data) {
  const std::lock_guard lock(mutex_);
  if (capturing_) {
    held_.push_back(data);
  } else {
    cudaFreeAsync(data, stream_);
  }
}

void Stream::begin_capture(std::shared_ptr<GraphMemory> memory) {
  const std::lock_guard lock(mutex_);
  // Relaxed: what the calling thread does beside the stream, such as getting the graph its memory, is its own
  // affair.
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
  capturing_ = true;
  graph_memory_ = std::move(memory);
}

cudaError_t Stream::end_capture(cudaGraph_t* graph) {
  const std::lock_guard lock(mutex_);
  const cudaError_t status = cudaStreamEndCapture(stream_, graph);
  capturing_ = false;
  graph_memory_.reset();
  for (void* data : held_) cudaFreeAsync(data, stream_);
  held_.clear();
  return status;
}

void* allocate_in_order(const Stream& stream, size_t bytes) {
  // An empty tensor has an address of its own, too.
  const size_t asked = std::max<size_t>(bytes, 1);
  void* data = nullptr;
  const cudaError_t status = cudaMallocAsync(&data, asked, stream.get());
  if (status != cudaErrorMemoryAllocation) {
    check(status, "cudaMallocAsync");
    return data;
  }
  // Everything that was freed may still wait for its turn, or lie in the pool in pieces.
  cudaGetLastError();
  check(cudaStreamSynchronize(stream.get()), "cudaStreamSynchronize");
  check(cudaMemPoolTrimTo(pool_of(stream.device()), 0), "cudaMemPoolTrimTo");
  if (cudaMallocAsync(&data, asked, stream.get()) != cudaSuccess) {
    cudaGetLastError();
    throw Error(kErrOutOfMemory, "memory: expected " + std::to_string(bytes) +
                                     " bytes on cuda:" + std::to_string(stream.device()) +
                                     ", got none (cudaErrorMemoryAllocation)");
  }
  return data;
}

std::shared_ptr<Storage> allocate_device(const std::shared_ptr<Stream>& stream, size_t bytes) {
  const CurrentDevice current(stream->device());
  if (stream->graph_memory()) return stream->graph_memory()->take(bytes);
  return std::make_shared<DeviceStorage>(allocate_in_order(*stream, bytes), bytes, stream);
}

std::vector<PoolUse> pools() {
  std::vector<PoolUse> all;
  for (int gpu : UsedGpus::instance().all()) {
    const cudaMemPool_t pool = pool_of(gpu);
    all.push_back({.gpu = gpu,
                   .in_use = read(pool, cudaMemPoolAttrUsedMemCurrent),
                   .reserved = read(pool, cudaMemPoolAttrReservedMemCurrent),
                   .peak = read(pool, cudaMemPoolAttrUsedMemHigh)});
  }
  return all;
}

uint64_t restart_peak(int gpu) {
  const cudaMemPool_t pool = pool_of(gpu);
  const uint64_t peak = read(pool, cudaMemPoolAttrUsedMemHigh);
  // The only value that it may be set to, and means what is in use.
  uint64_t restarted = 0;
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &restarted), "cudaMemPoolSetAttribute");
  return peak;
}

void trim_pools() {
  trim_pinned();
  for (int gpu : UsedGpus::instance().all()) check(cudaMemPoolTrimTo(pool_of(gpu), 0), "cudaMemPoolTrimTo");
}

}  // namespace moe::cuda
