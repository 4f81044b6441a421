// Shared memory of blocks.
#include "shared_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace simt {
namespace {

constexpr size_t kPage = 4096;
constexpr int kPoison = 0xff;
// Where the window starts: as on devices that keep the first kibibyte to themselves, so that 0 is never
// valid.
constexpr uint32_t kFirstAddress = 1024;

}  // namespace

void SharedArena::renew(size_t bytes) {
  const size_t needed = (bytes + kPage - 1) / kPage * kPage;
  if (needed != mapped_bytes_) {
    unmap();
    void* const fresh = mmap(nullptr, needed + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fresh == MAP_FAILED) throw std::bad_alloc();
    mapped_ = static_cast<unsigned char*>(fresh) + kPage;
    mapped_bytes_ = needed;
    mprotect(mapped_, needed, PROT_READ | PROT_WRITE);
  }
  bytes_ = bytes;
  if (mapped_ == nullptr) return;  // none was ever asked for
  base_ = mapped_ + mapped_bytes_ - (bytes + 15) / 16 * 16;
  std::memset(mapped_, kPoison, mapped_bytes_);
}

bool SharedArena::in_guard(const void* address) const {
  const auto* const byte = static_cast<const unsigned char*>(address);
  if (mapped_ == nullptr) return false;
  return (byte >= mapped_ - kPage && byte < mapped_) ||
         (byte >= mapped_ + mapped_bytes_ && byte < mapped_ + mapped_bytes_ + kPage);
}

bool SharedArena::intact() const {
  const unsigned char* const end = mapped_ + mapped_bytes_;
  return std::all_of(base_ + bytes_, const_cast<unsigned char*>(end),
                     [](unsigned char byte) { return byte == kPoison; });
}

uint32_t SharedArena::address_of(const void* pointer) const {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(pointer) - mapped_) + kFirstAddress;
}

unsigned char* SharedArena::at(uint32_t address, size_t bytes) const {
  const uint32_t first = address_of(base_);
  if (address < first || address + bytes > first + bytes_) return nullptr;
  return mapped_ + (address - kFirstAddress);
}

void SharedArena::unmap() {
  if (mapped_ != nullptr) munmap(mapped_ - kPage, mapped_bytes_ + 2 * kPage);
  mapped_ = nullptr;
  mapped_bytes_ = 0;
}

}  // namespace simt
