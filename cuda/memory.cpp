#include "cuda/memory.h"

#include <algorithm>
#include <bit>
#include <map>
#include <mutex>
#include <vector>

namespace moe::cuda {

Stream::Stream(int device) : device_(device) {
  const CurrentDevice current(device);
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  // What is freed stays with the pool: the driver would return it to the system at every wait.
  cudaMemPool_t pool = nullptr;
  uint64_t kept = UINT64_MAX;
  check(cudaDeviceGetDefaultMemPool(&pool, device), "cudaDeviceGetDefaultMemPool");
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept), "cudaMemPoolSetAttribute");
}

Stream::~Stream() {
  cudaStreamDestroy(stream_);
}

namespace {

class DeviceStorage final : public Storage {
 public:
  DeviceStorage(void* data, size_t bytes, std::shared_ptr<Stream> stream)
      : Storage(data, bytes), stream_(std::move(stream)) {}
  ~DeviceStorage() override { cudaFreeAsync(data(), stream_->get()); }

 private:
  std::shared_ptr<Stream> stream_;
};

void* allocate_in_order(const Stream& stream, size_t bytes) {
  void* data = nullptr;
  const cudaError_t status = cudaMallocAsync(&data, bytes, stream.get());
  if (status != cudaErrorMemoryAllocation) {
    check(status, "cudaMallocAsync");
    return data;
  }
  // Everything that was freed may still wait for its turn, or lie in the pool in pieces.
  cudaGetLastError();
  cudaMemPool_t pool = nullptr;
  check(cudaStreamSynchronize(stream.get()), "cudaStreamSynchronize");
  check(cudaDeviceGetDefaultMemPool(&pool, stream.device()), "cudaDeviceGetDefaultMemPool");
  check(cudaMemPoolTrimTo(pool, 0), "cudaMemPoolTrimTo");
  check(cudaMallocAsync(&data, bytes, stream.get()), "cudaMallocAsync");
  return data;
}

class PinnedPool {
 public:
  static PinnedPool& instance() {
    // Never destroyed: storage may outlive every other static.
    static auto* pool = new PinnedPool();
    return *pool;
  }

  void* take(size_t bytes) {
    {
      const std::lock_guard lock(mutex_);
      std::vector<void*>& blocks = free_[bytes];
      if (!blocks.empty()) {
        void* block = blocks.back();
        blocks.pop_back();
        return block;
      }
    }
    void* block = nullptr;
    check(cudaHostAlloc(&block, bytes, cudaHostAllocPortable), "cudaHostAlloc");
    return block;
  }

  void give(void* block, size_t bytes) {
    const std::lock_guard lock(mutex_);
    free_[bytes].push_back(block);
  }

 private:
  std::mutex mutex_;
  std::map<size_t, std::vector<void*>> free_;
};

class PinnedStorage final : public Storage {
 public:
  using Storage::Storage;
  ~PinnedStorage() override { PinnedPool::instance().give(data(), bytes()); }
};

}  // namespace

std::shared_ptr<Storage> allocate_device(const std::shared_ptr<Stream>& stream, size_t bytes) {
  const CurrentDevice current(stream->device());
  // An empty tensor has an address of its own, too.
  void* data = allocate_in_order(*stream, std::max<size_t>(bytes, 1));
  return std::make_shared<DeviceStorage>(data, bytes, stream);
}

std::shared_ptr<Storage> allocate_pinned(size_t bytes) {
  constexpr size_t kLeast = 256;
  const size_t rounded = std::bit_ceil(std::max(bytes, kLeast));
  return std::make_shared<PinnedStorage>(PinnedPool::instance().take(rounded), rounded);
}

}  // namespace moe::cuda
