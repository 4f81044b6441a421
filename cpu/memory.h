// Host memory for tensors: aligned, backed by huge pages where large, and kept for reuse, because fresh pages
// cost a fault each.
#pragma once

#include <cstddef>
#include <memory>

#include "ops/tensor.h"

namespace moe::cpu {

// One cache line and one AVX-512 register.
inline constexpr size_t kAlignment = 64;

// Throws ERR_OUT_OF_MEMORY. With MOE_KERNELS_POISON=1 the memory is filled with NaN bits first, so that tests
// see what a kernel leaves unwritten.
std::shared_ptr<Storage> allocate_storage(size_t bytes);

// Bytes freed but kept for reuse: at most MOE_KERNELS_POOL_BYTES, by default an eighth of the machine's
// memory.
size_t pooled_bytes();
void trim_pool();

// The most bytes that were in use at once, by tensors and workspaces, since it was last asked; blocks as they
// are kept, a quarter above what was asked for at most.
size_t restart_peak();

}  // namespace moe::cpu
