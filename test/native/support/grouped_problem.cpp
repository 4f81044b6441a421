#include "support/grouped_problem.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cpu/kernels.h"
#include "support/chains.h"
#include "support/expect.h"

namespace moe::test {
namespace {

constexpr int64_t kLineFloats = cpu::kCacheLine / static_cast<int64_t>(sizeof(float));

int64_t sum_of(const std::vector<int32_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

// Stored rows of one matrix B in one segment, and elements of each.
struct Extent {
  int64_t rows, length;
};

Extent b_extent(const GroupedShape& shape, const SegmentShape& segment) {
  if (shape.ragged == Ragged::k) return {sum_of(shape.counts), shape.n};
  return segment.b_k_contiguous ? Extent{shape.n, segment.k} : Extent{segment.k, shape.n};
}

// Of all groups.
int64_t b_rows_in_all(const GroupedShape& shape, const SegmentShape& segment, int matrix) {
  if (segment.absent == matrix || (matrix == 1 && !shape.side_by_side)) return 0;
  const int64_t groups = shape.ragged == Ragged::k ? 1 : static_cast<int64_t>(shape.counts.size());
  return groups * b_extent(shape, segment).rows;
}

}  // namespace

GroupedProblem::Stored::Stored(DType dtype, int64_t count, int64_t stored_length, Random& random)
    : length(stored_length), array(dtype, count * (stored_length + kGap)) {
  std::normal_distribution<float> normal;
  values.assign(static_cast<size_t>(array.size()), NAN);
  for (int64_t i = 0; i < array.size(); ++i) {
    if (i % stride() >= length) continue;
    array.set(i, normal(random));
    values[static_cast<size_t>(i)] = array[i];
  }
}

GroupedProblem::Segment::Segment(const GroupedShape& of, const SegmentShape& segment, Random& random)
    : shape(segment),
      b_rows(b_extent(of, segment).rows),
      a(segment.a, sum_of(of.counts), of.ragged == Ragged::m ? segment.k : of.m, random),
      b{{segment.b, b_rows_in_all(of, segment, 0), b_extent(of, segment).length, random},
        {segment.b, b_rows_in_all(of, segment, 1), b_extent(of, segment).length, random}} {}

GroupedProblem::GroupedProblem(const GroupedShape& shape, Random& random) : shape_(shape) {
  for (const SegmentShape& segment : shape.segments) segments_.emplace_back(shape, segment, random);
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
  return by_rows() ? offsets_.back() : shape_.m * static_cast<int64_t>(shape_.counts.size());
}

int64_t GroupedProblem::group_of(int64_t row) const {
  if (!by_rows()) return row / shape_.m;
  return std::upper_bound(offsets_.begin(), offsets_.end(), row) - offsets_.begin() - 1;
}

int64_t GroupedProblem::steps_of(const Segment& segment, int64_t group) const {
  return by_rows() ? segment.shape.k : shape_.counts[static_cast<size_t>(group)];
}

int64_t GroupedProblem::position_of_step(int64_t group, int64_t step) const {
  return positions_[static_cast<size_t>(offsets_[static_cast<size_t>(group)] + step)];
}

double GroupedProblem::a_value(const Segment& segment, int64_t group, int64_t row, int64_t step) const {
  if (by_rows()) return segment.a.at(positions_[static_cast<size_t>(row)], step);
  return segment.a.at(position_of_step(group, step), row % shape_.m);
}

double GroupedProblem::b_value(const Segment& segment, int64_t group, int64_t column, int64_t step) const {
  if (!by_rows()) return segment.b[0].at(position_of_step(group, step), column);
  const int matrix = column < shape_.n ? 0 : 1;
  if (segment.shape.absent == matrix) return 0;
  const int64_t within = column - matrix * shape_.n, first = group * segment.b_rows;
  const Stored& b = segment.b[matrix];
  return segment.shape.b_k_contiguous ? b.at(first + within, step) : b.at(first + step, within);
}

moe::Segment GroupedProblem::description(const Segment& segment) const {
  const auto operand = [&](const Stored& stored, bool routed, bool k_contiguous) {
    return Operand{.data = stored.array.at(0),
                   .dtype = stored.array.dtype(),
                   .row_stride = stored.stride(),
                   .group_stride = routed ? 0 : segment.b_rows * stored.stride(),
                   .row_index = routed ? index_.data() : nullptr,
                   .row_divisor = kDivisor,
                   .k_contiguous = k_contiguous};
  };
  moe::Segment described = {.k = segment.shape.k, .a = operand(segment.a, true, by_rows())};
  for (int matrix = 0; matrix < 2; ++matrix) {
    described.b[matrix] = operand(segment.b[matrix], !by_rows(), by_rows() && segment.shape.b_k_contiguous);
    described.b[matrix].absent = segment.shape.absent == matrix;
  }
  return described;
}

std::vector<float> GroupedProblem::run() const {
  std::vector<float> c(static_cast<size_t>(rows() * columns()), NAN);
  const int64_t width = cpu::kernels().width;
  GroupedGemm gemm = {.groups = static_cast<int32_t>(shape_.counts.size()),
                      .offsets = offsets_.data(),
                      .ragged = shape_.ragged,
                      .m = shape_.m,
                      .n = shape_.n,
                      .side_by_side = shape_.side_by_side,
                      .exact = shape_.exact,
                      .forward = shape_.forward};
  for (const Segment& segment : segments_) gemm.segments.add(description(segment));
  const auto take = [&](int64_t row, int64_t column, float value) {
    float& element = c[static_cast<size_t>(row * columns() + column)];
    element = std::isnan(element) ? value : NAN;
  };
  const auto finish = [&](const cpu::Tile& tile) {
    const int64_t first = by_rows() ? tile.row : tile.group * shape_.m + tile.row;
    for (int64_t row = 0; row < tile.rows; ++row) {
      const float* sums = tile.c + row * cpu::kSlivers * width;
      for (int64_t lane = 0; lane < tile.lanes; ++lane) {
        take(first + row, tile.col + lane, sums[lane]);
        if (shape_.side_by_side) take(first + row, shape_.n + tile.col + lane, sums[width + lane]);
      }
    }
  };
  if (!shape_.streamed || cpu::tile_columns() % kLineFloats != 0) {
    cpu::grouped_gemm(gemm, finish);
    return c;
  }
  const int64_t stride = (shape_.n + kLineFloats) / kLineFloats * kLineFloats;
  Array streamed(DType::float32, rows() * stride);
  cpu::grouped_gemm(gemm, {finish, {streamed.at(0), shape_.m * stride, stride, DType::float32}});
  for (int64_t i = 0; i < streamed.size(); ++i) {
    if (!streamed.untouched(i)) take(i / stride, i % stride, static_cast<float>(streamed[i]));
  }
  return c;
}

double GroupedProblem::exactly(int64_t row, int64_t column) const {
  double sum = 0;
  each_term(row, column, [&](double a, double b) { sum += a * b; });
  return sum;
}

float GroupedProblem::chained(int64_t row, int64_t column) const {
  const int64_t group = group_of(row);
  float sum = 0;
  for (const Segment& segment : segments_) {
    const cpu::Chains chains =
        shape_.forward ? cpu::chains_of(cpu::PanelKind::floats, segment.shape.b) : cpu::Chains{};
    sum = add_in_chains(chains, steps_of(segment, group), sum, [&](int64_t step, float own) {
      return multiply_add(cpu::kernels(), static_cast<float>(a_value(segment, group, row, step)),
                          static_cast<float>(b_value(segment, group, column, step)), own);
    });
  }
  return sum;
}

}  // namespace moe::test
