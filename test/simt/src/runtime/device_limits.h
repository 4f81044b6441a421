// The limits of the emulated architecture, from the technical specifications per compute capability in the
// CUDA programming guide.
#pragma once

#include <cstddef>

#include "simt/control.h"

namespace simt {

struct DeviceLimits {
  size_t shared_per_block, shared_per_block_opt_in, shared_per_multiprocessor, shared_reserved;
  int registers, threads_per_block, threads_per_multiprocessor, blocks_per_multiprocessor;
  int block_size[3], grid_size[3];
  bool clusters;
};

inline DeviceLimits device_limits() {
  const bool hopper = settings().compute_capability >= 90;
  constexpr size_t kKibi = 1024;
  return {.shared_per_block = 48 * kKibi,
          .shared_per_block_opt_in = (hopper ? 227 : 163) * kKibi,
          .shared_per_multiprocessor = (hopper ? 228 : 164) * kKibi,
          .shared_reserved = 1 * kKibi,
          .registers = 65536,
          .threads_per_block = 1024,
          .threads_per_multiprocessor = 2048,
          .blocks_per_multiprocessor = 32,
          .block_size = {1024, 1024, 64},
          .grid_size = {2147483647, 65535, 65535},
          .clusters = hopper};
}

}  // namespace simt
