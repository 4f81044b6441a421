// Grouped matrix products C_g = A_g · B_g over ragged groups: blocking, packing and threads. What becomes of
// C is the caller's epilogue.
//
// Three shapes of it make a layer:
//   forward  rows × weightᵀ   M ragged, both operands stored with k contiguous
//   dgrad    rows × weight    M ragged, the weight stored with lanes (columns of C) contiguous
//   wgrad    rowsᵀ × rows     K ragged, both operands stored with lanes contiguous
//
// Each element of C is one chain of multiply-adds over ascending k, whatever the blocking: see kernels.h.
#pragma once

#include <cstdint>
#include <functional>

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
};

// Where stored row i of a group starts.
const void* row_of(const Operand& operand, int64_t group, int64_t i);

// Which dimension counts the routed rows of a group.
enum class Ragged : uint8_t { m, k };

// How gate and up weights, two matrices, make one B: side by side in each tile's two slivers (their columns
// are one output), or one after the other along k (their gradients are summed).
enum class Halves : uint8_t { none, lanes, steps };

// Both halves have one dtype; along lanes, their stored rows are lanes (k contiguous).
struct GroupedGemm {
  int64_t groups = 1;
  const int32_t* offsets = nullptr;  // [groups + 1], rows of each group
  Ragged ragged = Ragged::m;
  // The dimensions that are not ragged. With halves along lanes, n counts columns of one half; along steps, k
  // counts both.
  int64_t m = 0, n = 0, k = 0;
  Operand a;
  bool a_k_contiguous = true;
  Operand b[2] = {};
  bool b_k_contiguous = true;
  Halves halves = Halves::none;
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
int64_t tile_columns(Halves halves);

}  // namespace moe::cpu
