// The one way a kernel is started.
#pragma once

#include "cuda/context.h"

namespace moe::cuda {

struct Grid {
  dim3 blocks;
  dim3 threads;
  size_t shared_bytes = 0;
};

// Blocks of `per_block` items, at most `most`: kernels stride over what is left.
inline unsigned blocks_for(int64_t items, int64_t per_block, int64_t most = 1 << 20) {
  const int64_t blocks = (items + per_block - 1) / per_block;
  return static_cast<unsigned>(blocks < most ? blocks : most);
}

// Enqueues a kernel; nothing for an empty grid. Throws what the launch itself is refused for.
template <class... Parameters, class... Arguments>
void launch(const Context& context, const char* name, void (*kernel)(Parameters...), const Grid& grid,
            Arguments&&... arguments) {
  if (grid.blocks.x == 0 || grid.blocks.y == 0 || grid.blocks.z == 0) return;
  constexpr size_t kWithoutOptIn = 48 << 10;
  if (grid.shared_bytes > kWithoutOptIn) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(grid.shared_bytes)),
          name);
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid.blocks;
  config.blockDim = grid.threads;
  config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = context.stream();
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
}

}  // namespace moe::cuda
