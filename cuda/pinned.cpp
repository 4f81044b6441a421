#include "cuda/pinned.h"

#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

#include "cuda/runtime.h"
#include "ops/gpus.h"
#include "ops/size_class.h"

namespace moe::cuda {
namespace {

size_t kept_limit() {
  if (const char* given = std::getenv("MOE_KERNELS_PINNED_BYTES")) return std::strtoull(given, nullptr, 10);
  return size_t{256} << 20;
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
      if (const auto found = free_.find(bytes); found != free_.end() && !found->second.empty()) {
        void* block = found->second.back();
        found->second.pop_back();
        kept_ -= bytes;
        return block;
      }
    }
    void* block = nullptr;
    if (cudaHostAlloc(&block, bytes, cudaHostAllocPortable) == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      trim();
    }
    if (block == nullptr) check(cudaHostAlloc(&block, bytes, cudaHostAllocPortable), "cudaHostAlloc");
    return block;
  }

  void give(void* block, size_t bytes) {
    {
      const std::lock_guard lock(mutex_);
      if (kept_ + bytes <= limit_) {
        free_[bytes].push_back(block);
        kept_ += bytes;
        return;
      }
    }
    cudaFreeHost(block);
  }

  void trim() {
    std::map<size_t, std::vector<void*>> blocks;
    {
      const std::lock_guard lock(mutex_);
      blocks.swap(free_);
      kept_ = 0;
    }
    for (const auto& [bytes, same] : blocks) {
      for (void* block : same) cudaFreeHost(block);
    }
  }

  size_t kept() {
    const std::lock_guard lock(mutex_);
    return kept_;
  }

 private:
  std::mutex mutex_;
  std::map<size_t, std::vector<void*>> free_;
  size_t kept_ = 0;
  const size_t limit_ = kept_limit();
};

class PinnedStorage final : public Storage {
 public:
  using Storage::Storage;
  ~PinnedStorage() override { PinnedPool::instance().give(data(), bytes()); }
};

}  // namespace

std::shared_ptr<Storage> allocate_pinned(size_t bytes) {
  const size_t rounded = size_class(bytes);
  return std::make_shared<PinnedStorage>(PinnedPool::instance().take(rounded), rounded);
}

size_t pinned_bytes() {
  return PinnedPool::instance().kept();
}

void trim_pinned() {
  PinnedPool::instance().trim();
}

}  // namespace moe::cuda
