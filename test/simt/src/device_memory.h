// Emulated device memory and pinned host memory: each allocation poisoned and ending at a guard page.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>

namespace simt {

enum class MemoryKind { device, pinned };

struct Allocation {
  unsigned char* base = nullptr;
  size_t bytes = 0;
  MemoryKind kind = MemoryKind::device;
  int device = 0;
  bool pooled = false;     // by cudaMallocAsync
  bool releasing = false;  // cudaFreeAsync was called, and its turn in the stream has not come
  bool freed = false;
  size_t mapped_bytes = 0;  // between the guard pages
  uint64_t number = 0;
};

class DeviceMemory {
 public:
  // Null where the machine has no memory left. BYTES is not 0.
  void* allocate(size_t bytes, MemoryKind kind, int device, bool pooled);
  // False where POINTER is no live allocation's start.
  bool release(const void* pointer);
  // False where POINTER is no live allocation's start, or is being released already.
  bool begin_release(const void* pointer);

  std::optional<Allocation> starting_at(const void* pointer) const;
  // The live allocation that holds [pointer, pointer + bytes).
  std::optional<Allocation> holding(const void* pointer, size_t bytes) const;
  size_t bytes_in_use(MemoryKind kind, int device) const;
  size_t pooled_bytes(int device) const;

  // What is next to ADDRESS: "4 bytes past the end of allocation 3 (140 bytes)".
  std::string describe(const void* address) const;
  // Names an allocation whose rounding to 16 bytes was written to; only once.
  std::optional<std::string> find_overrun();

 private:
  const Allocation* live_at(const void* pointer) const;
  void count_in(const Allocation& allocation);
  void count_out(const Allocation& allocation);
  void forget_oldest();

  mutable std::mutex lock_;
  std::map<uintptr_t, Allocation> all_;  // by start; freed ones stay for a while, as inaccessible pages
  std::map<uint64_t, uintptr_t> freed_;  // by age
  std::set<const Allocation*> rounded_;  // live ones whose size is no multiple of 16
  std::map<std::pair<MemoryKind, int>, size_t> used_;  // bytes of live ones, by kind and device
  std::map<int, size_t> pooled_;                       // of those, what the device's pool gave
  uint64_t count_ = 0;
};

DeviceMemory& device_memory();

}  // namespace simt
