// Device memory on mapped pages.
#include "device_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

namespace simt {
namespace {

constexpr size_t kPage = 4096;
// A finer alignment than the 256 bytes of devices, so that an overrun by one element meets the guard page: it
// is what 16-byte vectors, bulk copies and tensor maps need.
constexpr size_t kAlignment = 16;
constexpr int kPoison = 0xff;
constexpr size_t kRemembered = 4096;  // freed allocations whose addresses stay dead

size_t round_up(size_t bytes, size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

unsigned char* mapped_start(const Allocation& allocation) {
  return allocation.base + round_up(allocation.bytes, kAlignment) - allocation.mapped_bytes;
}

std::string named(const Allocation& allocation) {
  return std::string(allocation.freed ? "freed " : "") +
         (allocation.kind == MemoryKind::pinned ? "host allocation " : "allocation ") +
         std::to_string(allocation.number) + " (" + std::to_string(allocation.bytes) + " bytes)";
}

}  // namespace

DeviceMemory& device_memory() {
  static auto* const memory = new DeviceMemory;  // outlives whatever frees memory while the process exits
  return *memory;
}

void* DeviceMemory::allocate(size_t bytes, MemoryKind kind, int device, bool pooled) {
  const size_t needed = round_up(bytes, kPage);
  void* const fresh =
      mmap(nullptr, needed + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (fresh == MAP_FAILED) return nullptr;
  auto* const start = static_cast<unsigned char*>(fresh) + kPage;
  if (mprotect(start, needed, PROT_READ | PROT_WRITE) != 0) {
    munmap(fresh, needed + 2 * kPage);
    return nullptr;
  }
  std::memset(start, kPoison, needed);
  unsigned char* const base = start + needed - round_up(bytes, kAlignment);
  const std::lock_guard hold(lock_);
  Allocation& allocation = all_[reinterpret_cast<uintptr_t>(base)];
  allocation = {.base = base,
                .bytes = bytes,
                .kind = kind,
                .device = device,
                .pooled = pooled,
                .mapped_bytes = needed,
                .number = ++count_};
  count_in(allocation);
  return base;
}

void DeviceMemory::count_in(const Allocation& allocation) {
  if (allocation.bytes % kAlignment != 0) rounded_.insert(&allocation);
  used_[{allocation.kind, allocation.device}] += allocation.bytes;
  if (allocation.pooled) pooled_[allocation.device] += allocation.bytes;
}

void DeviceMemory::count_out(const Allocation& allocation) {
  rounded_.erase(&allocation);
  used_[{allocation.kind, allocation.device}] -= allocation.bytes;
  if (allocation.pooled) pooled_[allocation.device] -= allocation.bytes;
}

const Allocation* DeviceMemory::live_at(const void* pointer) const {
  const auto found = all_.find(reinterpret_cast<uintptr_t>(pointer));
  return found == all_.end() || found->second.freed ? nullptr : &found->second;
}

bool DeviceMemory::begin_release(const void* pointer) {
  const std::lock_guard hold(lock_);
  const Allocation* const found = live_at(pointer);
  if (found == nullptr || found->releasing) return false;
  const_cast<Allocation*>(found)->releasing = true;
  return true;
}

bool DeviceMemory::release(const void* pointer) {
  const std::lock_guard hold(lock_);
  const Allocation* const found = live_at(pointer);
  if (found == nullptr) return false;
  auto& allocation = const_cast<Allocation&>(*found);
  allocation.freed = true;
  count_out(allocation);
  // Fresh pages in place of the old: the memory is given back, the address stays dead.
  static_cast<void>(mmap(mapped_start(allocation), allocation.mapped_bytes, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0));
  freed_[allocation.number] = reinterpret_cast<uintptr_t>(pointer);
  if (freed_.size() > kRemembered) forget_oldest();
  return true;
}

void DeviceMemory::forget_oldest() {
  const auto oldest = all_.find(freed_.begin()->second);
  const Allocation& allocation = oldest->second;
  munmap(mapped_start(allocation) - kPage, allocation.mapped_bytes + 2 * kPage);
  all_.erase(oldest);
  freed_.erase(freed_.begin());
}

std::optional<Allocation> DeviceMemory::starting_at(const void* pointer) const {
  const std::lock_guard hold(lock_);
  const Allocation* const found = live_at(pointer);
  return found == nullptr ? std::nullopt : std::optional(*found);
}

std::optional<Allocation> DeviceMemory::holding(const void* pointer, size_t bytes) const {
  const std::lock_guard hold(lock_);
  auto next = all_.upper_bound(reinterpret_cast<uintptr_t>(pointer));
  if (next == all_.begin()) return std::nullopt;
  const Allocation& found = std::prev(next)->second;
  const auto offset = static_cast<size_t>(static_cast<const unsigned char*>(pointer) - found.base);
  if (found.freed || offset > found.bytes || bytes > found.bytes - offset) return std::nullopt;
  return found;
}

size_t DeviceMemory::bytes_in_use(MemoryKind kind, int device) const {
  const std::lock_guard hold(lock_);
  const auto found = used_.find({kind, device});
  return found == used_.end() ? 0 : found->second;
}

size_t DeviceMemory::pooled_bytes(int device) const {
  const std::lock_guard hold(lock_);
  const auto found = pooled_.find(device);
  return found == pooled_.end() ? 0 : found->second;
}

std::string DeviceMemory::describe(const void* address) const {
  const std::lock_guard hold(lock_);
  const auto at = reinterpret_cast<uintptr_t>(address);
  constexpr uintptr_t kNear = uintptr_t{1} << 20;
  const auto after = all_.upper_bound(at);
  std::string text;
  if (after != all_.begin()) {
    const auto& [start, allocation] = *std::prev(after);
    if (at - start < allocation.bytes) {
      return "byte " + std::to_string(at - start) + " of " + named(allocation);
    }
    if (at - start - allocation.bytes < kNear) {
      text = std::to_string(at - start - allocation.bytes) + " bytes past the end of " + named(allocation);
    }
  }
  if (after != all_.end() && after->first - at < kNear) {
    text += (text.empty() ? "" : ", ") + std::to_string(after->first - at) + " bytes before " +
            named(after->second);
  }
  return text.empty() ? "near no allocation" : text;
}

std::optional<std::string> DeviceMemory::find_overrun() {
  const std::lock_guard hold(lock_);
  for (const Allocation* const each : rounded_) {
    unsigned char* const end = each->base + each->bytes;
    unsigned char* const rounded = each->base + round_up(each->bytes, kAlignment);
    if (std::all_of(end, rounded, [](unsigned char byte) { return byte == kPoison; })) continue;
    std::fill(end, rounded, static_cast<unsigned char>(kPoison));
    return "a write past the end of " + named(*each);
  }
  return std::nullopt;
}

}  // namespace simt
