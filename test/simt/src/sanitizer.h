// What AddressSanitizer must be told of fibers: a stack that is used again carries no marks of the frames it
// had.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace simt {

inline void forget_frames([[maybe_unused]] std::byte* from, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(from, bytes);
#endif
}

}  // namespace simt
