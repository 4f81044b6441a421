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
  const int64_t begin = columns.offset * size, bytes = columns.length * size;
  return {
      .row = rows, .begin = begin, .end = begin + bytes, .at = begin, .lines = lines_of(bytes) * row_count};
}

// Calls visit(first, count) for the consecutive steps of a chain.
template <class Visit>
void for_each_turn(const ChainSteps& of, Visit visit) {
  const auto& [count, together] = of.chains;
  if (count == 1) return visit(of.steps.begin, of.steps.count());
  const int64_t turn = int64_t{count} * together;
  for (int64_t step = of.steps.begin + int64_t{of.chain} * together; step < of.steps.end; step += turn)
    visit(step, std::min<int64_t>(together, of.steps.end - step));
}

}  // namespace

int64_t ChainSteps::count() const {
  int64_t count = 0;
  for_each_turn(*this, [&](int64_t /*first*/, int64_t steps) { count += steps; });
  return count;
}

Ahead ahead_of(const StoredColumns& columns) {
  return ahead_of_rows(columns, columns.rows, columns.row_count);
}

Ahead ahead_of_sliver(const StoredColumns& columns, int sliver) {
  const StoredColumns::Sliver& of = columns.slivers[sliver];
  return ahead_of_rows(columns, of.rows, of.row_count);
}

void list_rows(const Operand& operand, int64_t group, int64_t first, int64_t count, const void** rows) {
  if (count == 0) return;  // There may be no matrix.
  if (operand.row_index != nullptr) {
    for (int64_t i = 0; i < count; ++i) rows[i] = row_of(operand, group, first + i);
    return;
  }
  const char* const row = static_cast<const char*>(row_of(operand, group, first));
  const int64_t stride = operand.row_stride * static_cast<int64_t>(bytes_of(operand.dtype));
  for (int64_t i = 0; i < count; ++i) rows[i] = row + i * stride;
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
    columns.slivers[i] = {.rows = own,
                          .row_count = b.absent ? 0 : lanes,
                          .offset = steps.begin,
                          .lanes = lanes,
                          .absent = b.absent};
    list_rows(b, group, first_of(col, i), columns.slivers[i].row_count, own);
    columns.row_count += columns.slivers[i].row_count;
  }
  return columns;
}

StoredColumns ColumnFinder::list_steps(const void** rows, const Segment& segment, int64_t group,
                                       int64_t first, const ChainSteps& steps) const {
  StoredColumns columns = {
      .slivers = {}, .dtype = segment.b[0].dtype, .rows = rows, .row_count = 0, .offset = 0, .length = 0};
  for (int i = 0; i < kSlivers; ++i) {
    const Operand& b = matrix_of(segment, i);
    if (i > 0 && !gemm_.side_by_side) {
      columns.slivers[i] = columns.slivers[0];
      continue;
    }
    const void** const own = rows + columns.row_count;
    columns.slivers[i] = {.rows = own, .row_count = 0, .offset = 0, .lanes = 0, .absent = b.absent};
    if (b.absent) continue;
    for_each_turn(steps, [&](int64_t step, int64_t count) {
      list_rows(b, group, first + step, count, rows + columns.row_count);
      columns.row_count += count;
    });
    columns.slivers[i].row_count = rows + columns.row_count - own;
  }
  return columns;
}

void ColumnFinder::place(StoredColumns& columns, int64_t col, int64_t count) const {
  columns.offset = col;
  columns.length = std::min(count, gemm_.n - col);
  for (int i = 0; i < kSlivers; ++i) {
    columns.slivers[i].offset = first_of(col, i);
    columns.slivers[i].lanes = lanes_of(col, i);
  }
}

}  // namespace moe::cpu
