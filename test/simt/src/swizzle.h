// The swizzles of shared memory that tensor copies and matrix descriptors share: 16-byte chunks of 32, 64 or
// 128 bytes change places by the 128-byte line they are in, by the bits of the address.
#pragma once

#include <cstdint>

namespace simt {

// WIDTH is 0 (none), 32, 64 or 128.
inline uint32_t swizzled(uint32_t address, uint32_t width) {
  const uint32_t chunks = width / 16;
  return chunks == 0 ? address : address ^ ((address >> 7 & (chunks - 1)) << 4);
}

}  // namespace simt
