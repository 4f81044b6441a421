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

// Calls `epilogue` once for each tile of each C, on any thread. Groups without rows have no tiles where M is
// ragged, and tiles of zeros where K is.
void grouped_gemm(const GroupedGemm& gemm, const std::function<void(const Tile&)>& epilogue);

// Columns of C in a full tile: sums over columns that are kept by tile depend on it.
int64_t tile_columns(bool side_by_side = false);

}  // namespace moe::cpu
