// One grouped product with operands of unit scale in memory full of NaN gaps: runs it, and knows each element
// of C.
#pragma once

#include <string>
#include <vector>

#include "cpu/grouped_gemm.h"
#include "support/array.h"

namespace moe::test {

struct GroupedShape {
  cpu::Ragged ragged = cpu::Ragged::m;
  std::vector<int32_t> counts;  // rows of each group
  int64_t m = 0, n = 1, k = 1;  // those that are not ragged; as in GroupedGemm
  DType a = DType::float32, b = DType::float32;
  bool b_k_contiguous = true;
  cpu::Halves halves = cpu::Halves::none;
  bool gathered = false;  // routed rows lie elsewhere than in their order
  bool exact = false;
};

class GroupedProblem {
 public:
  GroupedProblem(const GroupedShape& shape, Random& random);

  // C: routed rows by columns, gate columns before up columns; or blocks [group][m][n]. An element that no
  // tile held is NaN, one that several held is too.
  std::vector<float> run() const;

  int64_t columns() const { return shape_.n * (shape_.halves == cpu::Halves::lanes ? 2 : 1); }
  int64_t rows() const;

  // Calls visit(a, b) for the terms of an element of C in ascending k.
  template <class Visit>
  void each_term(int64_t row, int64_t column, Visit visit) const {
    const auto [group, steps] = steps_of(row);
    for (int64_t step = 0; step < steps; ++step)
      visit(a_values_[static_cast<size_t>(a_index(group, row, step))], b_value(group, column, step));
  }
  double exactly(int64_t row, int64_t column) const;
  // As a chain of the chosen table's multiply-adds.
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

  struct GroupSteps {
    int64_t group, steps;
  };

  void set_rows(const std::vector<int32_t>& counts, const std::vector<int32_t>& index);
  GroupSteps steps_of(int64_t row) const;
  int64_t a_index(int64_t group, int64_t row, int64_t step) const;
  double b_value(int64_t group, int64_t column, int64_t step) const;
  cpu::GroupedGemm description() const;

  GroupedShape shape_;
  // Of stored rows of the operands. B of a ragged k has routed rows, else blocks of a group each.
  int64_t a_length_, b_length_, b_rows_;
  std::vector<int32_t> offsets_, index_, positions_;
  Array a_, b_[2];
  std::vector<double> a_values_, b_values_[2];
};

}  // namespace moe::test
