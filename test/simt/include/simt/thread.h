// Who the running thread is, and its block's shared memory.
#pragma once

#include "simt/vectors.h"

namespace simt {

struct Coordinates {
  uint3 thread, block;
};

// The emulated thread that this host thread runs; null on the host's own stack.
extern __thread const Coordinates* here __attribute__((tls_model("initial-exec")));

// The dynamic shared memory of the running thread's block, as many bytes as its launch gave. Aligned to 1024
// bytes where that size is a multiple of 1024, else to the largest power of two (16 at least) that divides
// the size rounded up to 16: what follows the last 16 bytes is a guard page.
unsigned char* dynamic_shared();

}  // namespace simt

#define threadIdx (::simt::here->thread)
#define blockIdx (::simt::here->block)
// Variables, not macros: launch configurations have members of these names.
extern __thread dim3 blockDim __attribute__((tls_model("initial-exec")));
extern __thread dim3 gridDim __attribute__((tls_model("initial-exec")));
inline constexpr int warpSize = 32;
