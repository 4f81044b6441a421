// Page-locked host memory to stage copies in, kept for reuse: getting it is slow.
#pragma once

#include <memory>

#include "ops/tensor.h"

namespace moe::cuda {

// Throws ERR_OUT_OF_MEMORY. Of what is freed, at most MOE_KERNELS_PINNED_BYTES (by default 256 MiB) are kept.
std::shared_ptr<Storage> allocate_pinned(size_t bytes);

// Gives back what is kept.
void trim_pinned();

}  // namespace moe::cuda
