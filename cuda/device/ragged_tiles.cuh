// The tiles of ragged groups and the steps of k of each, found on the device: every warp looks at 32 groups
// at a time, a group for each lane.
#pragma once

#include "cuda/device/warp.cuh"
#include "cuda/tile_order.h"
#include "ops/grouped_gemm.h"

namespace moe::cuda {

// A tile of C.
struct Place {
  int32_t group;
  int32_t begin, end;   // routed rows of the group
  int32_t row, column;  // of C; where M is ragged, the row is a routed one
};

class RaggedTiles {
 public:
  __device__ RaggedTiles(const GroupedGemm& gemm, int rows, int columns)
      : gemm_(gemm),
        rows_(rows),
        columns_(columns),
        across_(static_cast<int32_t>((gemm.n + columns - 1) / columns)) {
    enter(0);
  }

  // Tile `index`, ascending from call to call; false past the last. For the whole warp.
  __device__ bool at(int64_t index, Place& place) {
    int32_t window = __shfl_sync(kAllLanes, upto_, kWarp - 1);
    while (index >= int64_t{before_ + window} * across_) {
      if (first_ + kWarp >= gemm_.groups) return false;
      before_ += window;
      enter(first_ + kWarp);
      window = __shfl_sync(kAllLanes, upto_, kWarp - 1);
    }
    const int64_t own = index - int64_t{before_} * across_;
    const int lane = __popc(__ballot_sync(kAllLanes, int64_t{upto_} * across_ <= own));
    const int32_t upto = __shfl_sync(kAllLanes, upto_, lane);
    const int32_t others = __shfl_sync(kAllLanes, upto_, lane > 0 ? lane - 1 : 0);
    const int32_t before = lane > 0 ? others : 0;
    const int32_t begin = __shfl_sync(kAllLanes, begin_, lane), end = __shfl_sync(kAllLanes, end_, lane);
    const TileOfGroup tile = tile_of_group(own - int64_t{before} * across_, upto - before, across_);
    const int32_t first = gemm_.ragged == Ragged::m ? begin : 0;
    place = {first_ + lane, begin, end, first + tile.row * rows_, tile.column * columns_};
    return true;
  }

 private:
  // Groups from `first` on.
  __device__ void enter(int32_t first) {
    first_ = first;
    const int32_t group = first + lane_id();
    const bool exists = group < gemm_.groups;
    const auto rows = static_cast<int32_t>(gemm_.rows);
    begin_ = exists && gemm_.offsets != nullptr ? gemm_.offsets[group] : 0;
    end_ = exists && gemm_.offsets != nullptr ? gemm_.offsets[group + 1] : rows;
    // Offsets that the caller gave are not trusted with memory.
    end_ = end_ < rows ? end_ : rows;
    begin_ = begin_ < 0 ? 0 : begin_ < end_ ? begin_ : end_;
    const int32_t of_c = gemm_.ragged == Ragged::m ? end_ - begin_ : static_cast<int32_t>(gemm_.m);
    upto_ = exists ? (of_c + rows_ - 1) / rows_ : 0;
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int32_t below = __shfl_up_sync(kAllLanes, upto_, offset);
      if (lane_id() >= offset) upto_ += below;
    }
  }

  const GroupedGemm& gemm_;
  int32_t rows_, columns_, across_;  // of a tile, of a tile, tiles
  int32_t first_ = 0;                // group of the first lane
  int32_t before_ = 0;               // rows of tiles before it
  // Of the lane's group: its rows, and how many rows of tiles there are up to and with it.
  int32_t begin_ = 0, end_ = 0, upto_ = 0;
};

// The steps of k of one tile, over all segments: those of its group where k is ragged.
class Steps {
 public:
  __device__ Steps(const GroupedGemm& gemm, const Place& place, int each)
      : gemm_(gemm), ragged_(place.end - place.begin), each_(each) {
    settle();
  }

  __device__ bool more() const { return segment_ < gemm_.segments.size(); }
  __device__ int segment() const { return segment_; }
  __device__ int64_t step() const { return step_; }
  __device__ void advance() {
    step_ += each_;
    settle();
  }

 private:
  __device__ void settle() {
    while (more() && step_ >= (gemm_.ragged == Ragged::k ? ragged_ : gemm_.segments[segment_].k)) {
      ++segment_;
      step_ = 0;
    }
  }

  const GroupedGemm& gemm_;
  int64_t ragged_;
  int each_;
  int segment_ = 0;
  int64_t step_ = 0;
};

}  // namespace moe::cuda
