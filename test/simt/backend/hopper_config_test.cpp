// How products are cut up for compute capability 9.0: pure functions.
#include "cuda/hopper_config.h"

#include <doctest.h>

#include <set>
#include <utility>

#include "cuda/tile_order.h"

namespace moe::cuda {
namespace {

constexpr DeviceLimits kH100 = {.multiprocessors = 132, .compute_capability = 90, .shared_bytes = 227 << 10};

// The up projection of a layer.
GemmShape shape(int64_t rows, int32_t groups, int64_t n, int64_t k) {
  return {.format = DType::bfloat16, .groups = groups, .rows = rows, .n = n, .k = k, .aligned = true};
}

HopperConfig config_of(const GemmShape& shape, const DeviceLimits& limits = kH100) {
  const auto config = hopper_config(shape, limits);
  REQUIRE(config.has_value());
  return *config;
}

}  // namespace

TEST_CASE("wgmma products are for aligned sixteen-bit operands on compute capability 9.0") {
  const GemmShape good = shape(4096, 8, 1024, 2048);
  CHECK(hopper_config(good, kH100).has_value());
  for (int capability : {80, 86, 89, 100, 120}) {
    DeviceLimits other = kH100;
    other.compute_capability = capability;
    CHECK_FALSE(hopper_config(good, other).has_value());
  }
  GemmShape bad = good;
  bad.format = DType::float32;
  CHECK_FALSE(hopper_config(bad, kH100).has_value());
  bad = good;
  bad.aligned = false;
  CHECK_FALSE(hopper_config(bad, kH100).has_value());
  bad = good;
  bad.n = int64_t{1} << 31;
  CHECK_FALSE(hopper_config(bad, kH100).has_value());
}

TEST_CASE("whether products take wgmma does not depend on the rows") {
  for (int64_t rows : {0, 1, 2, 63, 64, 1000, 1 << 20}) {
    for (Ragged ragged : {Ragged::m, Ragged::k}) {
      for (bool side_by_side : {false, true}) {
        GemmShape each = shape(rows, 16, 512, 512);
        each.ragged = ragged;
        each.m = 512;
        each.side_by_side = side_by_side;
        CHECK(hopper_config(each, kH100).has_value());
      }
    }
  }
}

TEST_CASE("tiles of wgmma products follow the shape") {
  CHECK_EQ(describe(config_of(shape(8 * 4096, 8, 4096, 4096))), "wgmma 128x256x64, 4 stages, cooperative");
  CHECK_EQ(config_of(shape(16, 8, 4096, 4096)).tile_m, 64);
  CHECK_EQ(config_of(shape(4096, 8, 64, 4096)).tile_n, 64);
  CHECK_EQ(config_of(shape(4096, 8, 16, 4096)).tile_n, 64);
  GemmShape gated = shape(4096, 8, 32, 4096);
  gated.side_by_side = true;
  CHECK_EQ(config_of(gated).tile_n, 128);
  GemmShape low_rank = {.format = DType::float16,
                        .ragged = Ragged::k,
                        .groups = 8,
                        .rows = 4096,
                        .m = 16,
                        .n = 2048,
                        .aligned = true};
  CHECK_EQ(config_of(low_rank).tile_m, 64);
}

TEST_CASE("stages of wgmma products fit in shared memory") {
  for (int bytes : {227 << 10, 163 << 10, 99 << 10, 64 << 10, 48 << 10, 16 << 10}) {
    DeviceLimits limits = kH100;
    limits.shared_bytes = bytes;
    for (int64_t n : {8, 100, 200, 4096}) {
      for (int64_t rows : {1, 100, 10000}) {
        const auto config = hopper_config(shape(rows, 4, n, 512), limits);
        CHECK_EQ(config.has_value(), bytes > 66 << 10);
        if (!config) continue;
        CHECK(config->shared_bytes() <= static_cast<size_t>(bytes));
        CHECK_EQ(config->shared_bytes() % 1024, 0);
        CHECK(config->stages >= 2);
      }
    }
  }
}

TEST_CASE("the order of a group's tiles has each of them once, neighbours nearby") {
  for (int32_t rows : {1, 2, 7, 8, 9, 16, 27}) {
    for (int32_t columns : {1, 2, 3, 11}) {
      std::set<std::pair<int32_t, int32_t>> seen;
      TileOfGroup before = tile_of_group(0, rows, columns);
      CHECK_EQ(before.row, 0);
      for (int64_t index = 0; index < int64_t{rows} * columns; ++index) {
        const TileOfGroup tile = tile_of_group(index, rows, columns);
        const bool inside = tile.row >= 0 && tile.row < rows && tile.column >= 0 && tile.column < columns;
        CHECK(inside);
        CHECK(std::abs(tile.column - before.column) <= 1);
        seen.emplace(tile.row, tile.column);
        before = tile;
      }
      CHECK_EQ(seen.size(), static_cast<size_t>(rows) * static_cast<size_t>(columns));
    }
  }
}

}  // namespace moe::cuda
