// Grouped matrix products C_g = Σ_s A_gs · B_gs over ragged groups: what is multiplied, and what becomes of
// C. The twin of cpu/grouped_gemm.h: the same three shapes (forward, dgrad, wgrad) and the same segments of
// k.
#pragma once

#include <array>
#include <variant>

#include "cuda/context.h"
#include "ops/experts.h"

namespace moe::cuda {

// Stored rows of an operand. Row i of group g starts at data + g·group_stride + position(i)·row_stride, in
// elements.
struct Operand {
  const void* data = nullptr;
  DType dtype = DType::float32;
  int64_t row_stride = 0;
  int64_t group_stride = 0;
  // position(i) = row_index[i] / row_divisor where given, else i. Rows from position row_count on, which only
  // a wrong index asks for, are zeros.
  const int32_t* row_index = nullptr;
  int32_t row_divisor = 1;
  int64_t row_count = INT64_MAX;
  // Stored rows are rows (for B: columns) of C, their elements steps of k; else stored rows are steps of k.
  bool k_contiguous = true;
  // Nothing is stored: zeros.
  bool absent = false;
};

// A row matrix, from one of its columns on: each of its rows has the steps of k.
Operand operand_of(const Tensor& rows, int64_t first_column = 0);
// The same stored rows as the steps of k.
Operand as_steps(Operand rows);

enum class Ragged : uint8_t { m, k };

struct Segment {
  int64_t k = 0;  // unless k is ragged
  Operand a;
  Operand b[2] = {};
};

// Gate, up and a low-rank pair of each.
inline constexpr int kMostSegments = 4;

struct GroupedGemm {
  int32_t groups = 1;
  const int32_t* offsets = nullptr;  // [groups + 1] on the device, or null: one group of `rows`
  Ragged ragged = Ragged::m;
  int64_t rows = 0;  // R: no group reaches past it
  // Those that are not ragged.
  int64_t m = 0, n = 0;
  std::array<Segment, kMostSegments> segments = {};
  int segment_count = 0;
  // Two matrices B at once, each in one half of every tile; n counts the columns of one.
  bool side_by_side = false;
  // Multiply in float32 whatever the dtypes: routing must not round.
  bool exact = false;

  void add(const Segment& segment) { segments[static_cast<size_t>(segment_count++)] = segment; }
};

// One matrix of each group, or rows of all, where an epilogue reads or writes.
struct Block {
  void* data = nullptr;
  DType dtype = DType::float32;
  int64_t group_stride = 0, row_stride = 0, column_stride = 1;
};
Block block_of(const ExpertMatrix& matrix);
Block block_of(const Tensor& rows);

// What routed rows are multiplied by: of_slot[row_slot[r]], or 1.
struct RowWeights {
  const float* of_slot = nullptr;     // [T, K], or null
  const int32_t* row_slot = nullptr;  // [R]
  int64_t slots = 0;                  // T·K
};

// Rows of C, times scale, plus a bias of the group, are rows of a matrix; or C is its group's block.
struct Store {
  Block out;
  Block bias = {};  // group_stride and column_stride
  float scale = 1;
  bool accumulate = false;
};

// As the CPU's: activated rows, and the pre-activation rows where asked.
struct Activate {
  ActivationSpec activation;
  bool interleaved = false;
  int64_t intermediate = 0;
  Block gate_bias = {}, up_bias = {};
  DType dtype = DType::float32;
  void* pre_activation = nullptr;  // [R, I or 2I], or null
  void* out = nullptr;             // [R, I], or null
  RowWeights row_weights = {};
};

// The gradient of the pre-activation rows, from sums that are the gradient of the activated rows.
struct ActivateBackward {
  ActivationSpec activation;
  bool interleaved = false;
  int64_t intermediate = 0;
  DType dtype = DType::float32;
  const void* pre_activation = nullptr;  // [R, I or 2I]
  void* d_pre_activation = nullptr;
  RowWeights row_weights = {};
  void* weighted = nullptr;  // [R, I], or null: weight times the activated row
  float* dots = nullptr;     // [R, column tiles], or null: ⟨c, activated row⟩ of each tile
};

// Columns of C in a full tile.
inline constexpr int kTileColumns = 64;

using Epilogue = std::variant<Store, Activate, ActivateBackward>;
void grouped_gemm(const GroupedGemm& gemm, const Epilogue& epilogue, const Context& context);

}  // namespace moe::cuda
