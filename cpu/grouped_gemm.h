// Grouped matrix products C_g = Σ_s A_gs · B_gs over ragged groups: blocking, packing and threads. What
// becomes of C is the caller's epilogue.
//
// Three shapes of it make a layer:
//   forward  rows × weightᵀ   M ragged
//   dgrad    rows × weight    M ragged
//   wgrad    rowsᵀ × rows     K ragged
// The sum over segments s adds what has operands of its own: gate's and up's share of an input's gradient,
// the low-rank path of an adapted weight. It is one long k.
//
// Each element of C is one chain of multiply-adds over ascending segments and k, whatever the blocking: see
// kernels.h.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "cpu/kernels.h"

namespace moe::cpu {

// Stored rows of an operand. Row i of group g starts at data + g·group_stride + position(i)·row_stride, in
// elements.
struct Operand {
  const void* data = nullptr;
  DType dtype = DType::float32;
  int64_t row_stride = 0;
  int64_t group_stride = 0;
  // position(i) = row_index[i] / row_divisor where given, else i: rows are gathered as they are packed.
  const int32_t* row_index = nullptr;
  int32_t row_divisor = 1;
  // Stored rows are rows (for B: columns) of C, their elements steps of k; else stored rows are steps of k.
  bool k_contiguous = true;
  // Nothing is stored: zeros.
  bool absent = false;
};

// Where stored row i of a group starts.
const void* row_of(const Operand& operand, int64_t group, int64_t i);

// Which dimension counts the routed rows of a group.
enum class Ragged : uint8_t { m, k };

// One run of k and its operands. Both of b have one dtype.
struct Segment {
  int64_t k = 0;  // unless k is ragged
  Operand a;
  Operand b[2] = {};
};

struct GroupedGemm {
  int64_t groups = 1;
  const int32_t* offsets = nullptr;  // [groups + 1], rows of each group
  Ragged ragged = Ragged::m;
  // Those that are not ragged.
  int64_t m = 0, n = 0;
  std::vector<Segment> segments;
  // Two matrices B at once, each in one sliver of every tile, so that an epilogue sees gate and up together;
  // n counts the columns of one. Else there is b[0] alone.
  bool side_by_side = false;
  // Multiply in float32 even where the processor has narrower products: routing must not round.
  bool exact = false;
};

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
