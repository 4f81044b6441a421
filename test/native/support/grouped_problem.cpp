#include "support/grouped_problem.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cpu/kernels.h"
#include "support/expect.h"

namespace moe::test {
namespace {

using cpu::Halves;
using cpu::Ragged;

int64_t sum_of(const std::vector<int32_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

// Fills rows of `length` elements, leaving what lies between them NaN.
std::vector<double> fill_rows(Array& array, int64_t length, int64_t stride, Random& random) {
  std::normal_distribution<float> normal;
  std::vector<double> values(static_cast<size_t>(array.size()), NAN);
  for (int64_t i = 0; i < array.size(); ++i) {
    if (i % stride >= length) continue;
    array.set(i, normal(random));
    values[static_cast<size_t>(i)] = array[i];
  }
  return values;
}

int64_t b_parts(const GroupedShape& shape) {
  return shape.halves == Halves::none ? 1 : 2;
}

// Steps of k within one half of B.
int64_t steps_of_half(const GroupedShape& shape) {
  return shape.halves == Halves::steps ? shape.k / 2 : shape.k;
}

}  // namespace

GroupedProblem::GroupedProblem(const GroupedShape& shape, Random& random)
    : shape_(shape),
      a_length_(shape.ragged == Ragged::m ? shape.k : shape.m),
      b_length_(shape.ragged == Ragged::k || !shape.b_k_contiguous ? shape.n : steps_of_half(shape)),
      b_rows_(shape.ragged == Ragged::k ? sum_of(shape.counts)
              : shape.b_k_contiguous    ? shape.n
                                        : steps_of_half(shape)),
      a_(shape.a, sum_of(shape.counts) * (a_length_ + kGap)),
      b_{{shape.b, (shape.ragged == Ragged::k ? 1 : static_cast<int64_t>(shape.counts.size())) * b_rows_ *
                       (b_length_ + kGap)},
         {shape.b, b_parts(shape) == 2
                       ? static_cast<int64_t>(shape.counts.size()) * b_rows_ * (b_length_ + kGap)
                       : 0}} {
  a_values_ = fill_rows(a_, a_length_, a_length_ + kGap, random);
  for (int part = 0; part < 2; ++part)
    b_values_[part] = fill_rows(b_[part], b_length_, b_length_ + kGap, random);
  std::vector<int32_t> index(static_cast<size_t>(sum_of(shape.counts)));
  std::iota(index.begin(), index.end(), 0);
  if (shape.gathered) std::shuffle(index.begin(), index.end(), random);
  // Slots of a token share its row.
  for (int32_t& position : index) position = position * kDivisor + position % kDivisor;
  set_rows(shape.counts, index);
}

void GroupedProblem::set_rows(const std::vector<int32_t>& counts, const std::vector<int32_t>& index) {
  shape_.counts = counts;
  index_ = index;
  offsets_.assign(1, 0);
  for (int32_t count : counts) offsets_.push_back(offsets_.back() + count);
  positions_.clear();
  for (int32_t slot : index) positions_.push_back(slot / kDivisor);
}

int64_t GroupedProblem::rows() const {
  return shape_.ragged == Ragged::m ? offsets_.back() : shape_.m * static_cast<int64_t>(shape_.counts.size());
}

GroupedProblem::GroupSteps GroupedProblem::steps_of(int64_t row) const {
  if (shape_.ragged == Ragged::k) return {row / shape_.m, shape_.counts[static_cast<size_t>(row / shape_.m)]};
  const auto after = std::upper_bound(offsets_.begin(), offsets_.end(), row);
  return {after - offsets_.begin() - 1, shape_.k};
}

int64_t GroupedProblem::a_index(int64_t group, int64_t row, int64_t step) const {
  const bool by_rows = shape_.ragged == Ragged::m;
  const auto routed = static_cast<size_t>(by_rows ? row : offsets_[static_cast<size_t>(group)] + step);
  return positions_[routed] * (a_length_ + kGap) + (by_rows ? step : row % shape_.m);
}

double GroupedProblem::b_value(int64_t group, int64_t column, int64_t step) const {
  const int64_t stride = b_length_ + kGap;
  if (shape_.ragged == Ragged::k) {
    const int32_t position = positions_[static_cast<size_t>(offsets_[static_cast<size_t>(group)] + step)];
    return b_values_[0][static_cast<size_t>(position * stride + column)];
  }
  const bool by_lanes = shape_.halves == Halves::lanes;
  const int64_t half = by_lanes ? column / shape_.n : step / std::max<int64_t>(1, steps_of_half(shape_));
  if (by_lanes) column %= shape_.n;
  if (shape_.halves == Halves::steps) step %= steps_of_half(shape_);
  const int64_t stored = shape_.b_k_contiguous ? column : step,
                within = shape_.b_k_contiguous ? step : column;
  return b_values_[half][static_cast<size_t>((group * b_rows_ + stored) * stride + within)];
}

cpu::GroupedGemm GroupedProblem::description() const {
  const auto operand = [&](const Array& array, int64_t length, int64_t group_rows, bool routed) {
    return cpu::Operand{.data = array.at(0),
                        .dtype = array.dtype(),
                        .row_stride = length + kGap,
                        .group_stride = group_rows * (length + kGap),
                        .row_index = routed ? index_.data() : nullptr,
                        .row_divisor = kDivisor};
  };
  const bool by_rows = shape_.ragged == Ragged::m;
  const int64_t b_group_rows = by_rows ? b_rows_ : 0;
  return {.groups = static_cast<int64_t>(shape_.counts.size()),
          .offsets = offsets_.data(),
          .ragged = shape_.ragged,
          .m = shape_.m,
          .n = shape_.n,
          .k = shape_.k,
          .a = operand(a_, a_length_, 0, true),
          .a_k_contiguous = by_rows,
          .b = {operand(b_[0], b_length_, b_group_rows, !by_rows),
                operand(b_[1], b_length_, b_group_rows, !by_rows)},
          .b_k_contiguous = by_rows && shape_.b_k_contiguous,
          .halves = shape_.halves,
          .exact = shape_.exact};
}

std::vector<float> GroupedProblem::run() const {
  std::vector<float> c(static_cast<size_t>(rows() * columns()), NAN);
  const int64_t width = cpu::kernels().width;
  cpu::grouped_gemm(description(), [&](const cpu::Tile& tile) {
    const int64_t first = shape_.ragged == Ragged::k ? tile.group * shape_.m + tile.row : tile.row;
    const auto take = [&](int64_t row, int64_t column, float value) {
      float& element = c[static_cast<size_t>((first + row) * columns() + column)];
      element = std::isnan(element) ? value : NAN;
    };
    for (int64_t row = 0; row < tile.rows; ++row) {
      const float* sums = tile.c + row * cpu::kSlivers * width;
      for (int64_t lane = 0; lane < tile.lanes; ++lane) {
        take(row, tile.col + lane, sums[lane]);
        if (shape_.halves == Halves::lanes) take(row, shape_.n + tile.col + lane, sums[width + lane]);
      }
    }
  });
  return c;
}

double GroupedProblem::exactly(int64_t row, int64_t column) const {
  double sum = 0;
  each_term(row, column, [&](double a, double b) { sum += a * b; });
  return sum;
}

float GroupedProblem::chained(int64_t row, int64_t column) const {
  float sum = 0;
  each_term(row, column, [&](double a, double b) {
    sum = multiply_add(cpu::kernels(), static_cast<float>(a), static_cast<float>(b), sum);
  });
  return sum;
}

}  // namespace moe::test
