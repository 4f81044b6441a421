// How a grouped product is made by the kernel that serves every shape and device: a pure function of the
// product's shape and the device.
//
// Neither the arithmetic nor the order of an element's sum (ascending k, in steps of one instruction) depends
// on the tile, so that a row has the same bits in a batch of any size. The arithmetic must therefore never be
// chosen by a number of rows.
#pragma once

#include <array>
#include <optional>
#include <string>

#include "cuda/arithmetic.h"
#include "cuda/gemm_shape.h"

namespace moe::cuda {

// Rows and columns of C that a block makes at once, bytes of k in each step of it, and steps in flight.
struct TileShape {
  int m, n, step_bytes, stages;
};
// For few rows a group, where the bytes of weights in flight count: of few columns, or of many; for some
// rows; for many; for rows that must lie in one tile.
enum class TileSize : uint8_t { narrow, flat, small, large, wide };
inline constexpr std::array<TileShape, 5> kTileShapes = {{
    {.m = 16, .n = 64, .step_bytes = 128, .stages = 6},
    {.m = 16, .n = 128, .step_bytes = 128, .stages = 4},
    {.m = 64, .n = 64, .step_bytes = 128, .stages = 3},
    {.m = 128, .n = 128, .step_bytes = 64, .stages = 4},
    {.m = 32, .n = 256, .step_bytes = 64, .stages = 4},
}};
constexpr const TileShape& tile_of(TileSize size) {
  return kTileShapes[static_cast<size_t>(size)];
}

struct GemmConfig {
  Arithmetic arithmetic = Arithmetic::float32;
  TileSize size = TileSize::small;
  int blocks = 0;  // of the grid, which strides over the tiles
};

GemmConfig gemm_config(const GemmShape& shape, const DeviceLimits& limits);

// For a float32 product whose epilogue needs whole rows of C in one tile; nothing where they are too long.
std::optional<GemmConfig> whole_row_config(const GemmShape& shape, const DeviceLimits& limits);

// In one line.
std::string describe(const GemmShape& shape);
std::string describe(const GemmConfig& config);

}  // namespace moe::cuda
