// The tiles of C of all groups, as blocks come by them.
#pragma once

#include "ops/grouped_gemm.h"

namespace moe::cuda {

// A tile of C.
struct Place {
  int32_t group;
  int64_t first_row, end_row;  // routed rows of the group
  int64_t row, column;         // of C
};

// Walks them in the order of groups, rows, columns.
class RaggedTiles {
 public:
  __device__ RaggedTiles(const GroupedGemm& gemm, int rows, int columns)
      : gemm_(gemm), column_tiles_((gemm.n + columns - 1) / columns), rows_(rows), columns_(columns) {
    enter(0);
  }

  // Tile `index`, ascending from call to call; false past the last.
  __device__ bool at(int64_t index, Place& place) {
    while (group_ < gemm_.groups && index >= before_ + tiles_) {
      before_ += tiles_;
      enter(group_ + 1);
    }
    if (group_ >= gemm_.groups) return false;
    const int64_t own = index - before_;
    const int64_t first = gemm_.ragged == Ragged::m ? begin_ : 0;
    place = {group_, begin_, end_, first + own / column_tiles_ * rows_, own % column_tiles_ * columns_};
    return true;
  }

 private:
  __device__ void enter(int32_t group) {
    group_ = group;
    tiles_ = 0;
    if (group >= gemm_.groups) return;
    begin_ = gemm_.offsets != nullptr ? gemm_.offsets[group] : 0;
    end_ = gemm_.offsets != nullptr ? gemm_.offsets[group + 1] : gemm_.rows;
    // Offsets that the caller gave are not trusted with memory.
    end_ = end_ < gemm_.rows ? end_ : gemm_.rows;
    begin_ = begin_ < 0 ? 0 : begin_ < end_ ? begin_ : end_;
    const int64_t rows = gemm_.ragged == Ragged::m ? end_ - begin_ : gemm_.m;
    tiles_ = (rows + rows_ - 1) / rows_ * column_tiles_;
  }

  const GroupedGemm& gemm_;
  int64_t column_tiles_;
  int rows_, columns_;
  int32_t group_ = 0;
  int64_t before_ = 0, tiles_ = 0, begin_ = 0, end_ = 0;
};

// The steps of k of one tile, over all segments: those of its group where k is ragged.
class Steps {
 public:
  __device__ Steps(const GroupedGemm& gemm, const Place& place, int each)
      : gemm_(gemm), ragged_(place.end_row - place.first_row), each_(each) {
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
