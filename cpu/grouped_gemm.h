// Grouped products on the CPU: blocking, packing and threads. What becomes of C is the caller's epilogue. The
// chains of multiply-adds: see kernels.h.
#pragma once

#include <cstdint>
#include <functional>

#include "cpu/kernels.h"
#include "ops/grouped_gemm.h"

namespace moe::cpu {

// Where a group's rows begin, of all.
inline int64_t begin_of(const GroupedGemm& gemm, int64_t group) {
  return gemm.offsets == nullptr ? group * gemm.rows : gemm.offsets[group];
}
inline int64_t rows_of(const GroupedGemm& gemm, int64_t group) {
  return begin_of(gemm, group + 1) - begin_of(gemm, group);
}

// Where stored row i of a group starts.
const void* row_of(const Operand& operand, int64_t group, int64_t i);

// A finished tile of sums, c[row][lane] with a pitch of 2·width.
struct Tile {
  const float* c;
  int64_t group;
  int64_t row;  // of C; routed rows where M is ragged
  int64_t col;
  int rows, lanes;
};

// A block of memory for each group's C, all of whose whole tiles can be streamed (kernels.h).
struct StreamedBlocks {
  void* out = nullptr;  // or there are none
  int64_t group_stride = 0, row_stride = 0;
  DType dtype = DType::float32;
};

// What becomes of the tiles of each C: `finish` is called once for each, on any thread, but for whole ones
// that are streamed. Where it has a member `prefetch`, that is called before with the rows of one tile or of
// several below each other, without sums, to ask memory for what finish() reads and writes.
struct Epilogue {
  template <class Finish>
  Epilogue(Finish finish, const StreamedBlocks& streamed = {}) : finish(finish), streamed(streamed) {
    if constexpr (requires(Tile tile) { finish.prefetch(tile); })
      prefetch = [finish](const Tile& tile) { finish.prefetch(tile); };
  }

  std::function<void(const Tile&)> finish, prefetch;
  StreamedBlocks streamed;
};

// Groups without rows have no tiles where M is ragged, and tiles of zeros where K is.
void grouped_gemm(const GroupedGemm& gemm, const Epilogue& epilogue);

// Columns of C in a full tile: sums over columns that are kept by tile depend on it.
int64_t tile_columns(bool side_by_side = false);

}  // namespace moe::cpu
