// What the asynchronous proxy (bulk copies out of shared memory, wgmma) knows of a block's shared memory.
// Ordinary writes reach it by fence.proxy.async alone. Which thread wrote what is not tracked, so this finds
// less than there is: bytes that differ from what the proxy last saw or wrote are an error where no thread of
// the block made a fence since then.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace simt {

struct Block;

class AsyncProxy {
 public:
  static constexpr uint32_t kGranule = 16;  // bytes: what its instructions read and write in multiples of

  void renew(size_t bytes);
  void fence() { ++fences_; }
  // The proxy reads, or has written, BYTES at POINTER, both of them multiples of a granule.
  void reads(const Block& block, const unsigned char* pointer, size_t bytes);
  void wrote(const Block& block, const unsigned char* pointer, size_t bytes);

 private:
  std::vector<unsigned char> seen_;
  std::vector<uint32_t> fences_seen_;  // by granule: how many fences there had been
  uint32_t fences_ = 0;
};

}  // namespace simt
