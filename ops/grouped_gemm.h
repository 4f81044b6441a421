// Grouped matrix products C_g = Σ_s A_gs · B_gs over ragged groups, as both backends are asked for them. What
// becomes of C is the backend's epilogue.
//
// Three shapes of it make a layer:
//   forward  rows × weightᵀ   M ragged
//   dgrad    rows × weight    M ragged
//   wgrad    rowsᵀ × rows     K ragged
// The sum over segments s adds what has operands of its own: gate's and up's share of an input's gradient,
// the low-rank path of an adapted weight. It is one long k.
//
// Each element of C is a fixed sequence of multiply-adds over ascending segments, whatever the blocking.
#pragma once

#include <cassert>
#include <cstdint>
#include <initializer_list>

#include "ops/everywhere.h"
#include "ops/experts.h"

namespace moe {

// Stored rows of an operand. Row i of group g starts at data + g·group_stride + position(i)·row_stride, in
// elements.
struct Operand {
  const void* data = nullptr;
  DType dtype = DType::float32;
  int64_t row_stride = 0;
  int64_t group_stride = 0;
  // position(i) = row_index[i] / row_divisor where given, else i: rows are gathered as they are read.
  const int32_t* row_index = nullptr;
  int32_t row_divisor = 1;
  // Positions from here on, which only an index that the host cannot check asks for, are zeros.
  int64_t row_count = INT64_MAX;
  // Stored rows are rows (for B: columns) of C, their elements steps of k; else stored rows are steps of k.
  bool k_contiguous = true;
  // Nothing is stored: zeros.
  bool absent = false;
};

// A row matrix, from one of its columns on: each of its rows has the steps of k.
Operand operand_of(const Tensor& rows, int64_t first_column = 0);
// A matrix of each expert as a B whose columns are the matrix's rows, whichever of its dimensions is
// contiguous.
Operand operand_of(const ExpertMatrix& matrix);
// Stored rows from one of their elements on.
Operand columns_of(Operand rows, int64_t first);
// The same stored rows as the steps of k.
Operand as_steps(Operand rows);

// Which dimension counts the routed rows of a group.
enum class Ragged : uint8_t { m, k };

// One run of k and its operands. Both of b have one dtype.
struct Segment {
  int64_t k = 0;  // unless k is ragged
  Operand a;
  Operand b[2] = {};
};

// At most gate, up and a low-rank pair of each; in place, so that a product travels to a kernel as it is.
class Segments {
 public:
  static constexpr int kMost = 4;

  Segments() = default;
  Segments(std::initializer_list<Segment> segments) {
    for (const Segment& segment : segments) add(segment);
  }

  void add(const Segment& segment) {
    assert(count_ < kMost);
    of_[count_++] = segment;
  }

  MOE_EVERYWHERE int size() const { return count_; }
  MOE_EVERYWHERE const Segment& operator[](int index) const { return of_[index]; }
  const Segment* begin() const { return of_; }
  const Segment* end() const { return of_ + count_; }

 private:
  Segment of_[kMost] = {};
  int count_ = 0;
};

struct GroupedGemm {
  int32_t groups = 1;
  const int32_t* offsets =
      nullptr;       // [groups + 1] where the backend computes, or null: one group of all rows
  int64_t rows = 0;  // R: no group reaches past it
  Ragged ragged = Ragged::m;
  // Those that are not ragged.
  int64_t m = 0, n = 0;
  Segments segments;
  // Two matrices B at once, each in one half of every tile, so that an epilogue sees gate and up together; n
  // counts the columns of one. Else there is b[0] alone.
  bool side_by_side = false;
  // Multiply in float32 whatever the dtypes: routing must not round.
  bool exact = false;
  // rows × weightᵀ: terms may be added in an order that suits groups of few rows.
  bool forward = false;
};

// Products of plain matrices, in one group of all the rows of `left`.
GroupedGemm times_transposed(const Tensor& left, const Tensor& right);  // left · rightᵀ
GroupedGemm times(const Tensor& left, const Tensor& right);             // left · right
GroupedGemm transposed_times(const Tensor& left, const Tensor& right);  // leftᵀ · right

}  // namespace moe
