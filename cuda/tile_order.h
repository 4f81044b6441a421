// The order in which the tiles of one group are made: blocks that run at the same time share rows of A and
// columns of B, which then come from the cache.
#pragma once

#include <cstdint>

#include "ops/everywhere.h"

namespace moe::cuda {

struct TileOfGroup {
  int32_t row, column;
};

// In bands of rows; in a band column by column, every other band from the last column back.
MOE_EVERYWHERE inline TileOfGroup tile_of_group(int64_t index, int32_t rows, int32_t columns) {
  constexpr int32_t kBand = 8;
  const int64_t of_band = int64_t{kBand} * columns;
  const auto band = static_cast<int32_t>(index / of_band), within = static_cast<int32_t>(index % of_band);
  const int32_t left = rows - band * kBand, height = left < kBand ? left : kBand;
  const int32_t column = within / height;
  return {band * kBand + within % height, band % 2 == 0 ? column : columns - 1 - column};
}

}  // namespace moe::cuda
