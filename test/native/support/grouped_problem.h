// One grouped product with operands of unit scale in memory full of NaN gaps: runs it, and knows each element
// of C.
#pragma once

#include <deque>
#include <optional>
#include <vector>

#include "cpu/grouped_gemm.h"
#include "support/array.h"

namespace moe::test {

// One run of k.
struct SegmentShape {
  int64_t k = 1;  // unless k is ragged
  DType a = DType::float32, b = DType::float32;
  bool b_k_contiguous = true;
  // Of matrices side by side, the one that is not there in this segment.
  std::optional<int> absent = std::nullopt;
};

struct GroupedShape {
  Ragged ragged = Ragged::m;
  std::vector<int32_t> counts;  // rows of each group
  int64_t m = 0, n = 1;         // those that are not ragged; as in GroupedGemm
  std::vector<SegmentShape> segments = {{}};
  bool side_by_side = false;
  bool gathered = false;  // routed rows lie elsewhere than in their order
  bool exact = false;
  bool forward = false;
  bool streamed = false;  // whole tiles, where they are whole cache lines
};

class GroupedProblem {
 public:
  GroupedProblem(const GroupedShape& shape, Random& random);

  // C: routed rows by columns, those of the second matrix after those of the first; or blocks [group][m][n].
  // An element that no tile held is NaN, one that several held is too.
  std::vector<float> run() const;

  int64_t columns() const { return shape_.n * (shape_.side_by_side ? 2 : 1); }
  int64_t rows() const;

  // Calls visit(a, b) for the terms of an element of C, segment after segment in ascending k.
  template <class Visit>
  void each_term(int64_t row, int64_t column, Visit visit) const {
    const int64_t group = group_of(row);
    for (const Segment& segment : segments_) {
      for (int64_t step = 0; step < steps_of(segment, group); ++step)
        visit(a_value(segment, group, row, step), b_value(segment, group, column, step));
    }
  }
  double exactly(int64_t row, int64_t column) const;
  // As the chains of the chosen table's multiply-adds, of floats.
  float chained(int64_t row, int64_t column) const;

  // The same rows of A, but only those that keep(row), each still in its group.
  template <class Keep>
  GroupedProblem& keep_rows(Keep keep) {
    std::vector<int32_t> kept, counts(shape_.counts.size(), 0);
    for (size_t group = 0; group < counts.size(); ++group) {
      for (int32_t row = offsets_[group]; row < offsets_[group + 1]; ++row) {
        if (!keep(row)) continue;
        kept.push_back(positions_[static_cast<size_t>(row)] * kDivisor);
        ++counts[group];
      }
    }
    set_rows(counts, kept);
    return *this;
  }

 private:
  static constexpr int32_t kDivisor = 3;
  static constexpr int64_t kGap = 3;  // elements between stored rows

  // Stored rows of one operand, `length` elements of each. What lies between them stays NaN.
  struct Stored {
    Stored(DType dtype, int64_t count, int64_t stored_length, Random& random);

    double at(int64_t row, int64_t i) const { return values[static_cast<size_t>(row * stride() + i)]; }
    int64_t stride() const { return length + kGap; }

    int64_t length;
    Array array;
    std::vector<double> values;
  };

  struct Segment {
    Segment(const GroupedShape& of, const SegmentShape& segment, Random& random);

    SegmentShape shape;
    int64_t b_rows;  // of one group; of a ragged k, routed rows
    Stored a, b[2];
  };

  void set_rows(const std::vector<int32_t>& counts, const std::vector<int32_t>& index);
  bool by_rows() const { return shape_.ragged == Ragged::m; }
  int64_t group_of(int64_t row) const;
  int64_t steps_of(const Segment& segment, int64_t group) const;
  // Where the routed row of a step lies, of a ragged k.
  int64_t position_of_step(int64_t group, int64_t step) const;
  double a_value(const Segment& segment, int64_t group, int64_t row, int64_t step) const;
  double b_value(const Segment& segment, int64_t group, int64_t column, int64_t step) const;
  moe::Segment description(const Segment& segment) const;

  GroupedShape shape_;
  std::vector<int32_t> offsets_, index_, positions_;
  std::deque<Segment> segments_;  // which stay where they are
};

}  // namespace moe::test
