#include "cuda/hopper_config.h"

#include <algorithm>
#include <cstdint>
#include <limits>

namespace moe::cuda {
namespace {

constexpr int kTilesM[] = {128, 64}, kTilesN[] = {256, 128, 64};

int64_t ceil_div(int64_t value, int64_t by) {
  return (value + by - 1) / by;
}

bool is_served(const GemmShape& shape, const DeviceLimits& limits) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();  // coordinates of boxes
  return limits.compute_capability == 90 && shape.aligned &&
         (shape.format == DType::bfloat16 || shape.format == DType::float16) &&
         std::max({shape.m, shape.n, shape.k}) <= kMost;
}

// As many stages as fit, though none that is of no use.
int stages_of(HopperConfig config, const DeviceLimits& limits) {
  constexpr int kMost = 8;
  config.stages = kMost;
  while (config.stages > 0 && config.shared_bytes() > static_cast<size_t>(limits.shared_bytes))
    --config.stages;
  return config.stages;
}

// Cycles, by rough rates: waves of tiles, each bound by its products or by the bytes of its operands. Tiles
// by turns are finished while the next one is multiplied.
int64_t cost_of(const HopperConfig& config, const GemmShape& shape, const DeviceLimits& limits) {
  constexpr int64_t kProductsOfCycle = 2048, kBytesOfCycle = 48, kCyclesOfTile = 1000, kSumsOfCycle = 6;
  const int64_t groups = std::max<int32_t>(shape.groups, 1);
  const bool ragged_m = shape.ragged == Ragged::m;
  // Rows are as even as they can be: nothing is known here.
  const int64_t busy = ragged_m ? std::clamp<int64_t>(shape.rows, 1, groups) : groups;
  const int64_t rows = ceil_div(shape.rows, busy);
  const int64_t columns = shape.side_by_side ? config.tile_n / 2 : config.tile_n;
  const int64_t tiles =
      busy * ceil_div(ragged_m ? rows : shape.m, config.tile_m) * ceil_div(shape.n, columns);
  const int64_t steps = ceil_div(ragged_m ? shape.k : rows, kPanel);
  const int64_t sums = int64_t{config.tile_m} * config.tile_n;
  const int64_t step = std::max(sums * kPanel / kProductsOfCycle, config.stage_bytes() / kBytesOfCycle);
  const int64_t waves = ceil_div(tiles, std::max(limits.multiprocessors, 1));
  const int64_t multiply = steps * step, finish = sums / kSumsOfCycle;
  if (config.cooperative()) return waves * (multiply + finish + kCyclesOfTile);
  return waves * std::max(multiply, finish) + finish + kCyclesOfTile;
}

}  // namespace

std::optional<HopperConfig> hopper_config(const GemmShape& shape, const DeviceLimits& limits) {
  if (!is_served(shape, limits)) return std::nullopt;
  std::optional<HopperConfig> best;
  int64_t least = 0;
  for (int tile_m : kTilesM) {
    for (int tile_n : kTilesN) {
      // Each of two matrices has whole panels.
      if (shape.side_by_side && tile_n < 2 * kPanel) continue;
      HopperConfig config = {.tile_m = tile_m, .tile_n = tile_n};
      config.stages = stages_of(config, limits);
      if (config.stages < 2) continue;
      const int64_t cost = cost_of(config, shape, limits);
      if (best && cost >= least) continue;
      best = config;
      least = cost;
    }
  }
  return best;
}

std::string describe(const HopperConfig& config) {
  return "wgmma " + std::to_string(config.tile_m) + "x" + std::to_string(config.tile_n) + "x" +
         std::to_string(kPanel) + ", " + std::to_string(config.stages) + " stages, " +
         (config.cooperative() ? "cooperative" : "ping-pong");
}

}  // namespace moe::cuda
