#include "cpu/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <iterator>
#include <list>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "ops/error.h"
#include "ops/size_class.h"

namespace moe::cpu {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

size_t pool_limit() {
  if (const char* given = std::getenv("MOE_KERNELS_POOL_BYTES")) return std::strtoull(given, nullptr, 10);
  return static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE)) / 8;
}

class Pool {
 public:
  void* take(size_t bytes) {
    if (void* block = take_idle(bytes)) return block;
    void* block = fresh(bytes);
    if (block == nullptr) {
      trim();
      block = fresh(bytes);
    }
    if (block == nullptr)
      throw Error(kErrOutOfMemory, "memory: expected " + std::to_string(bytes) + " bytes, got none");
    const std::lock_guard lock(mutex_);
    count_use(bytes);
    return block;
  }

  void give(void* block, size_t bytes) {
    const std::lock_guard lock(mutex_);
    in_use_ -= bytes;
    if (bytes > limit_) return std::free(block);
    idle_.push_back({block, bytes});
    of_size_[bytes].push_back(std::prev(idle_.end()));
    pooled_ += bytes;
    shrink_to(limit_);
  }

  void trim() {
    const std::lock_guard lock(mutex_);
    shrink_to(0);
  }

  size_t pooled() {
    const std::lock_guard lock(mutex_);
    return pooled_;
  }

  size_t restart_peak() {
    const std::lock_guard lock(mutex_);
    return std::exchange(peak_, in_use_);
  }

 private:
  static void* fresh(size_t bytes) {
    const bool huge = bytes >= 2 * kHugePage;
    const size_t alignment = huge ? kHugePage : kAlignment;
    const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    if (rounded < bytes) return nullptr;
    void* block = std::aligned_alloc(alignment, rounded);
#ifdef MADV_HUGEPAGE
    if (block != nullptr && huge) madvise(block, rounded, MADV_HUGEPAGE);
#endif
    return block;
  }

  void* take_idle(size_t bytes) {
    const std::lock_guard lock(mutex_);
    const auto found = of_size_.find(bytes);
    if (found == of_size_.end() || found->second.empty()) return nullptr;
    void* block = found->second.back()->memory;
    idle_.erase(found->second.back());
    found->second.pop_back();
    pooled_ -= bytes;
    count_use(bytes);
    return block;
  }

  void count_use(size_t bytes) {
    in_use_ += bytes;
    peak_ = std::max(peak_, in_use_);
  }

  // Frees what has been idle longest: sizes that nobody asks for any more must not crowd out the others.
  void shrink_to(size_t limit) {
    while (pooled_ > limit) {
      const Block oldest = idle_.front();
      idle_.pop_front();
      // Of its size it is the oldest too.
      of_size_[oldest.bytes].pop_front();
      pooled_ -= oldest.bytes;
      std::free(oldest.memory);
    }
  }

  struct Block {
    void* memory;
    size_t bytes;
  };

  std::mutex mutex_;
  // Idle blocks, in the order in which they were given back; and those of each size.
  std::list<Block> idle_;
  std::unordered_map<size_t, std::deque<std::list<Block>::iterator>> of_size_;
  size_t pooled_ = 0;
  size_t in_use_ = 0, peak_ = 0;
  const size_t limit_ = pool_limit();
};

// Never destroyed: queues of other threads may still free memory while the process exits.
Pool& pool() {
  static Pool* const instance = new Pool;
  return *instance;
}

class PooledStorage final : public Storage {
 public:
  PooledStorage(size_t bytes, size_t capacity) : Storage(pool().take(capacity), bytes), capacity_(capacity) {}
  ~PooledStorage() override { pool().give(data(), capacity_); }

 private:
  const size_t capacity_;
};

}  // namespace

std::shared_ptr<Storage> allocate_storage(size_t bytes) {
  static const bool poison = std::getenv("MOE_KERNELS_POISON") != nullptr;
  auto storage = std::make_shared<PooledStorage>(bytes, size_class(bytes));
  if (poison) std::memset(storage->data(), 0xff, bytes);
  return storage;
}

size_t pooled_bytes() {
  return pool().pooled();
}

void trim_pool() {
  pool().trim();
}

size_t restart_peak() {
  return pool().restart_peak();
}

}  // namespace moe::cpu
