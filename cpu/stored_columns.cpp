#include "cpu/stored_columns.h"

#include <algorithm>

#include "cpu/grouped_gemm.h"

namespace moe::cpu {
namespace {

int64_t lines_of(int64_t bytes) {
  return (bytes + kCacheLine - 1) / kCacheLine;
}

Ahead ahead_of_rows(const StoredColumns& columns, const void* const* rows, int64_t row_count) {
  const auto size = static_cast<int64_t>(bytes_of(columns.dtype));
  return {.rows = rows,
          .begin = columns.offset * size,
          .end = (columns.offset + columns.length) * size,
          .lines = lines_of(columns.length * size) * row_count};
}

}  // namespace

Ahead ahead_of(const StoredColumns& columns) {
  return ahead_of_rows(columns, columns.rows, columns.row_count);
}

Ahead ahead_of_sliver(const StoredColumns& columns, int sliver) {
  const StoredColumns::Sliver& of = columns.slivers[sliver];
  return ahead_of_rows(columns, of.rows, of.absent ? 0 : of.lanes);
}

Ahead share_of(Ahead ahead, int64_t i, int64_t parts) {
  if (ahead.lines == 0) return ahead;
  const int64_t per_row = lines_of(ahead.end - ahead.begin);
  const int64_t begin = ahead.lines * i / parts, end = ahead.lines * (i + 1) / parts;
  ahead.rows += begin / per_row;
  ahead.first = begin % per_row;
  ahead.lines = end - begin;
  return ahead;
}

void list_rows(const Operand& operand, int64_t group, int64_t first, int64_t count, const void** rows) {
  for (int64_t i = 0; i < count; ++i) rows[i] = row_of(operand, group, first + i);
}

int ColumnFinder::lanes_of(int64_t col, int i) const {
  return static_cast<int>(std::clamp<int64_t>(gemm_.n - first_of(col, i), 0, width_));
}

StoredColumns ColumnFinder::list_columns(const void** rows, const Segment& segment, int64_t group,
                                         int64_t col, const Steps& steps) const {
  StoredColumns columns = {.slivers = {},
                           .dtype = segment.b[0].dtype,
                           .rows = rows,
                           .row_count = 0,
                           .offset = steps.begin,
                           .length = steps.count()};
  for (int i = 0; i < kSlivers; ++i) {
    const Operand& b = matrix_of(segment, i);
    const int lanes = lanes_of(col, i);
    const void** own = rows + columns.row_count;
    columns.slivers[i] = {.rows = own, .offset = steps.begin, .lanes = lanes, .absent = b.absent};
    if (b.absent) continue;
    list_rows(b, group, first_of(col, i), lanes, own);
    columns.row_count += lanes;
  }
  return columns;
}

StoredColumns ColumnFinder::list_steps(const void** rows, const Segment& segment, int64_t group,
                                       int64_t first, const Steps& steps) const {
  StoredColumns columns = {
      .slivers = {}, .dtype = segment.b[0].dtype, .rows = rows, .row_count = 0, .offset = 0, .length = 0};
  for (int i = 0; i < kSlivers; ++i) {
    const Operand& b = matrix_of(segment, i);
    if (i > 0 && !gemm_.side_by_side) {
      columns.slivers[i] = columns.slivers[0];
      continue;
    }
    const void** own = rows + columns.row_count;
    columns.slivers[i] = {.rows = own, .offset = 0, .lanes = 0, .absent = b.absent};
    if (b.absent) continue;
    list_rows(b, group, first + steps.begin, steps.count(), own);
    columns.row_count += steps.count();
  }
  return columns;
}

void ColumnFinder::place(StoredColumns& columns, int64_t col) const {
  const int64_t tile = gemm_.side_by_side ? width_ : kSlivers * width_;
  columns.offset = col;
  columns.length = std::min(tile, gemm_.n - col);
  for (int i = 0; i < kSlivers; ++i) {
    columns.slivers[i].offset = first_of(col, i);
    columns.slivers[i].lanes = lanes_of(col, i);
  }
}

}  // namespace moe::cpu
