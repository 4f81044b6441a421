// Stacks for fibers, a slab of them at a time.
#include "stacks.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#include "sanitizer.h"

namespace simt {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kStackBytes = size_t{256} << 10;  // of address space: pages come when they are touched
constexpr size_t kStacks = 64;                     // of a slab
constexpr size_t kColours = 32, kColourBytes = 320;
constexpr size_t kUsable = kStackBytes - kPage - kColours * kColourBytes;  // below every top

}  // namespace

StackPool::~StackPool() {
  for (std::byte* slab : slabs_) {
    forget_frames(slab, kStacks * kStackBytes);
    munmap(slab, kStacks * kStackBytes);
  }
}

std::byte* StackPool::take() {
  if (free_.empty()) grow();
  std::byte* const top = free_.back();
  free_.pop_back();
  forget_frames(top - kUsable, kUsable);
  return top;
}

bool StackPool::in_guard(const void* address) const {
  for (const std::byte* slab : slabs_) {
    const auto offset = reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(slab);
    if (offset < kStacks * kStackBytes) return offset % kStackBytes < kPage;
  }
  return false;
}

void StackPool::grow() {
  void* const mapped = mmap(nullptr, kStacks * kStackBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  auto* const slab = static_cast<std::byte*>(mapped);
  slabs_.push_back(slab);
  for (size_t index = 0; index < kStacks; ++index) {
    std::byte* const stack = slab + index * kStackBytes;
    mprotect(stack, kPage, PROT_NONE);
    free_.push_back(stack + kStackBytes - index % kColours * kColourBytes);
  }
}

}  // namespace simt
