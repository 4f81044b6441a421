// The asynchronous proxy's view of shared memory.
#include "async_proxy.h"

#include <cstring>

#include "engine.h"

namespace simt {
namespace {

constexpr unsigned char kPoison = 0xff;  // as the arena starts

}  // namespace

void AsyncProxy::renew(size_t bytes) {
  seen_.assign((bytes + kGranule - 1) / kGranule * kGranule, kPoison);
  fences_seen_.assign(seen_.size() / kGranule, 0);
  fences_ = 0;
}

void AsyncProxy::reads(const Block& block, const unsigned char* pointer, size_t bytes) {
  const auto first = static_cast<size_t>(pointer - block.shared.base());
  for (size_t at = first; at < first + bytes; at += kGranule) {
    const unsigned char* const now = block.shared.base() + at;
    if (std::memcmp(&seen_[at], now, kGranule) == 0) continue;
    uint32_t& fences_seen = fences_seen_[at / kGranule];
    if (fences_seen == fences_) {
      fail("the asynchronous proxy reads byte " + std::to_string(at) +
           " of shared memory, which ordinary stores wrote without a fence.proxy.async after them");
    }
    std::memcpy(&seen_[at], now, kGranule);
    fences_seen = fences_;
  }
}

void AsyncProxy::wrote(const Block& block, const unsigned char* pointer, size_t bytes) {
  const auto first = static_cast<size_t>(pointer - block.shared.base());
  std::memcpy(&seen_[first], pointer, bytes);
}

}  // namespace simt
