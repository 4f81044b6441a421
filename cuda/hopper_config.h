// How a grouped product is cut up for compute capability 9.0: a function of shape and device alone.
//
// Tiles come in panels of 64 × 64 elements, in the 128-byte swizzle: the most that a row of it holds, and the
// rows of a warpgroup's product.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "cuda/gemm_shape.h"

namespace moe::cuda {

inline constexpr int kPanel = 64;
inline constexpr int kPanelBytes = kPanel * kPanel * 2;
inline constexpr int kWarpgroup = 128;  // threads
// Sums on their way to the epilogue: a slice of 64 columns of each consumer at a time.
inline constexpr int kSlicePitch = kPanel + 4;
inline constexpr int kSliceBytes = kPanel * kSlicePitch * 4;

inline constexpr int kConsumers = 2;  // warpgroups that multiply, beside the one that fetches

// Whether a tile's sums are too many for one warpgroup's registers.
constexpr bool takes_both_consumers(int tile_m, int tile_n) {
  return tile_m * tile_n > kPanel * 256;
}

struct HopperConfig {
  int tile_m = kPanel;  // 64 or 128
  int tile_n = kPanel;  // 64, 128 or 256
  int stages = 2;       // of 64 steps of k

  // Both consumers share each tile, or they have tiles by turns: one multiplies while the other finishes.
  constexpr bool cooperative() const { return takes_both_consumers(tile_m, tile_n); }
  constexpr int stage_bytes() const { return (tile_m + tile_n) / kPanel * kPanelBytes; }
  // Stages, slices, a barrier of each consumer, two of each stage; a multiple of what the swizzle repeats
  // after.
  constexpr size_t shared_bytes() const {
    constexpr int kBarrier = 8, kAlignment = 1024;
    const int bytes = stages * (stage_bytes() + 2 * kBarrier) + kConsumers * (kSliceBytes + kBarrier);
    const int repeats = (bytes + kAlignment - 1) / kAlignment;
    return static_cast<size_t>(repeats) * kAlignment;
  }
  friend bool operator==(const HopperConfig&, const HopperConfig&) = default;
};

// Nothing where the device is another, or its hardware cannot copy or multiply the operands. That does not
// depend on the number of rows: the products round in their own way.
std::optional<HopperConfig> hopper_config(const GemmShape& shape, const DeviceLimits& limits);

std::string describe(const HopperConfig& config);

}  // namespace moe::cuda
