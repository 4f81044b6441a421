#include "cuda/gemm_config.h"

#include <algorithm>

namespace moe::cuda {
namespace {

Arithmetic arithmetic_of(const GemmShape& shape) {
  switch (shape.format) {
    case DType::bfloat16:
      return Arithmetic::bfloat16;
    case DType::float16:
      return Arithmetic::float16;
    default:
      return shape.tf32 ? Arithmetic::tf32 : Arithmetic::float32;
  }
}

int64_t most_tiles(const GemmShape& shape, TileSize size) {
  return most_tiles(shape, tile_of(size).m, tile_of(size).n);
}

TileSize size_of(const GemmShape& shape, const DeviceLimits& limits) {
  // As if the rows were spread evenly: how they really are is known on the device alone.
  const int64_t groups = std::max(shape.groups, 1);
  const int64_t rows_each = shape.ragged == Ragged::m ? (shape.rows + groups - 1) / groups : shape.m;
  // Larger tiles read each operand less often, but leave multiprocessors idle where they are few.
  const auto fills = [&](TileSize size) {
    return most_tiles(shape, size) >= int64_t{2} * limits.multiprocessors;
  };
  if (rows_each <= tile_of(TileSize::flat).m)
    return fills(TileSize::flat) ? TileSize::flat : TileSize::narrow;
  const bool many = rows_each > tile_of(TileSize::large).m / 2;
  return many && fills(TileSize::large) ? TileSize::large : TileSize::small;
}

GemmConfig config_of(const GemmShape& shape, Arithmetic arithmetic, TileSize size,
                     const DeviceLimits& limits) {
  // More than run together: the rest are strided over.
  constexpr int64_t kBlocksOfAMultiprocessor = 4;
  const int64_t tiles = most_tiles(shape, size);
  const int64_t most = limits.multiprocessors * kBlocksOfAMultiprocessor;
  return {.arithmetic = arithmetic, .size = size, .blocks = static_cast<int>(std::min(tiles, most))};
}

}  // namespace

GemmConfig gemm_config(const GemmShape& shape, const DeviceLimits& limits) {
  return config_of(shape, arithmetic_of(shape), size_of(shape, limits), limits);
}

std::optional<GemmConfig> whole_row_config(const GemmShape& shape, const DeviceLimits& limits) {
  if (shape.n > tile_of(TileSize::wide).n) return std::nullopt;
  if (shape.n > tile_of(TileSize::large).n)
    return config_of(shape, Arithmetic::float32, TileSize::wide, limits);
  const bool fills = most_tiles(shape, TileSize::large) >= limits.multiprocessors;
  return config_of(shape, Arithmetic::float32, fills ? TileSize::large : TileSize::flat, limits);
}

std::string describe(const GemmShape& shape) {
  const auto number = [](const char* name, int64_t value) {
    return std::string(" ") + name + " " + std::to_string(value);
  };
  std::string line = std::string(name_of(shape.format)) + number("groups", shape.groups) +
                     number(shape.ragged == Ragged::m ? "m" : "k", shape.rows) + " (ragged)";
  if (shape.ragged == Ragged::k) line += number("m", shape.m);
  line += number("n", shape.n);
  if (shape.ragged == Ragged::m) line += number("k", shape.k);
  if (shape.side_by_side) line += ", two side by side";
  return line + (shape.aligned ? "" : ", not aligned");
}

std::string describe(const GemmConfig& config) {
  const TileShape& tile = tile_of(config.size);
  return std::string("mma ") + kArithmeticNames[static_cast<size_t>(config.arithmetic)] + ", tile " +
         std::to_string(tile.m) + " x " + std::to_string(tile.n) + ", " + std::to_string(tile.stages) +
         " stages of " + std::to_string(tile.step_bytes) + " bytes, " + std::to_string(config.blocks) +
         " blocks";
}

}  // namespace moe::cuda
