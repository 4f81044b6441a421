#include "cpu/grouped_gemm.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <vector>

#include "cpu/memory.h"
#include "cpu/thread_pool.h"

namespace moe::cpu {
namespace {

// A task's C block is kBlockTiles tiles of rows by kBlockColumnTiles of columns. Per step of k-blocking it
// keeps its A block (168 x 512 floats on AVX-512) and C block (168 x 256) in the second-level cache, and one
// B panel (512 x 32) close by.
constexpr int kBlockRowTiles = 12;
constexpr int kBlockColumnTiles = 8;
constexpr int64_t kBlockUnits = 512;
// Below this many multiply-adds, waking another thread costs more than it brings.
constexpr int64_t kSerialWork = 1 << 19;

struct AlignedFree {
  void operator()(float* memory) const { std::free(memory); }
};
using AlignedFloats = std::unique_ptr<float[], AlignedFree>;

AlignedFloats aligned_floats(int64_t count) {
  const size_t bytes =
      (static_cast<size_t>(count) * sizeof(float) + kAlignment - 1) / kAlignment * kAlignment;
  auto* memory = static_cast<float*>(std::aligned_alloc(kAlignment, bytes));
  if (memory == nullptr) throw std::bad_alloc();
  return AlignedFloats(memory);
}

// One thread's packed blocks and sums, allocated on its first product.
struct Scratch {
  explicit Scratch(const Kernels& table)
      : a(aligned_floats(kBlockRowTiles * table.tile_rows * kBlockUnits + table.width)),
        b(aligned_floats(kSlivers * table.width * kBlockUnits + table.width)),
        c(aligned_floats(int64_t{kBlockRowTiles} * table.tile_rows * kBlockColumnTiles * kSlivers *
                         table.width)) {}

  static Scratch& of_this_thread() {
    // On the heap: loaders have little room for what threads keep in place.
    thread_local const auto scratch = std::make_unique<Scratch>(kernels());
    return *scratch;
  }

  AlignedFloats a, b, c;
  // Stored rows of each operand that take part in the present block of k.
  using StoredRows = std::array<const void*, 2 * kBlockUnits>;
  StoredRows a_rows, b_rows[kSlivers];
};

// The rows of C of one task, within one group.
struct RowBlock {
  int64_t group, row, rows;
};

// How a segment is multiplied: what its dtypes allow on this processor.
struct Multiplier {
  int steps;  // of k in one unit
  PackKernel pack_a, pack_b;
  const TileProduct* products;
};

Multiplier choose_multiplier(const Kernels& table, const Segment& segment, bool exact) {
  const bool has_pairs = table.tile_product[static_cast<size_t>(PanelKind::bfloat16_pairs)][0] != nullptr;
  const bool bfloat16s = segment.a.dtype == DType::bfloat16 && segment.b[0].dtype == DType::bfloat16;
  const PanelKind kind = has_pairs && bfloat16s && !exact ? PanelKind::bfloat16_pairs : PanelKind::floats;
  const auto pack_of = [&](const Operand& operand) {
    const auto& kernels = operand.k_contiguous ? table.pack_k_contiguous : table.pack_lanes_contiguous;
    return kernels[static_cast<size_t>(kind)][static_cast<size_t>(operand.dtype)];
  };
  return {.steps = steps_per_unit(kind),
          .pack_a = pack_of(segment.a),
          .pack_b = pack_of(segment.b[0]),
          .products = table.tile_product[static_cast<size_t>(kind)]};
}

class Product {
 public:
  Product(const GroupedGemm& gemm, const std::function<void(const Tile&)>& epilogue)
      : gemm_(gemm), epilogue_(epilogue), table_(kernels()), tile_columns_(tile_columns(gemm.side_by_side)) {
    for (const Segment& segment : gemm.segments)
      multipliers_.push_back(choose_multiplier(table_, segment, gemm.exact));
  }

  void run() {
    find_row_blocks();
    const int64_t block_columns = kBlockColumnTiles * tile_columns_;
    const int64_t column_blocks = (gemm_.n + block_columns - 1) / block_columns;
    const auto task = [&](int64_t i) {
      const int64_t col = i % column_blocks * block_columns;
      run_block(blocks_[static_cast<size_t>(i / column_blocks)], col, std::min(gemm_.n, col + block_columns));
    };
    const int64_t tasks = static_cast<int64_t>(blocks_.size()) * column_blocks;
    if (work() < kSerialWork) {
      for (int64_t i = 0; i < tasks; ++i) task(i);
    } else {
      ThreadPool::instance().parallel_for(tasks, task);
    }
  }

 private:
  // Where a group's rows begin.
  int64_t begin_of(int64_t group) const {
    if (gemm_.offsets == nullptr) return group * gemm_.rows;
    return gemm_.offsets[group];
  }
  int64_t rows_of(int64_t group) const { return begin_of(group + 1) - begin_of(group); }

  int64_t work() const {
    const int64_t rows = begin_of(gemm_.groups) - begin_of(0);
    const int64_t columns = gemm_.n * (gemm_.side_by_side ? 2 : 1);
    int64_t k = 0;
    for (const Segment& segment : gemm_.segments) k += segment.k;
    return rows * columns * (gemm_.ragged == Ragged::m ? k : gemm_.m);
  }

  // Splits each group's rows of C evenly into blocks of at most kBlockRowTiles tiles.
  void find_row_blocks() {
    const int64_t most = int64_t{kBlockRowTiles} * table_.tile_rows;
    for (int64_t group = 0; group < gemm_.groups; ++group) {
      const bool ragged = gemm_.ragged == Ragged::m;
      const int64_t first = ragged ? begin_of(group) : 0;
      const int64_t rows = ragged ? rows_of(group) : gemm_.m;
      const int64_t count = (rows + most - 1) / most;
      for (int64_t i = 0; i < count; ++i) {
        const int64_t begin = rows * i / count, end = rows * (i + 1) / count;
        blocks_.push_back({group, first + begin, end - begin});
      }
    }
  }

  void run_block(const RowBlock& block, int64_t col_begin, int64_t col_end) const {
    Scratch& scratch = Scratch::of_this_thread();
    bool accumulate = false;
    for (int i = 0; i < gemm_.segments.size(); ++i) {
      const Segment& segment = gemm_.segments[i];
      const Multiplier& multiplier = multipliers_[static_cast<size_t>(i)];
      const int64_t k = gemm_.ragged == Ragged::k ? rows_of(block.group) : segment.k;
      for (int64_t step = 0; step < k; step += kBlockUnits * multiplier.steps) {
        const int64_t end = std::min(k, step + kBlockUnits * multiplier.steps);
        multiply_steps(scratch, block, col_begin, col_end,
                       {.segment = segment,
                        .multiplier = multiplier,
                        .begin = step,
                        .end = end,
                        .accumulate = accumulate});
        accumulate = true;
      }
    }
    if (!accumulate) {
      const int64_t tiles = (col_end - col_begin + tile_columns_ - 1) / tile_columns_;
      std::fill_n(scratch.c.get(), tiles * block.rows * kSlivers * table_.width, 0.0f);
    }
    finish(scratch, block, col_begin, col_end);
  }

  // Steps [begin, end) of k of one segment.
  struct Steps {
    const Segment& segment;
    const Multiplier& multiplier;
    int64_t begin, end;
    bool accumulate;

    int64_t count() const { return end - begin; }
    int64_t units() const { return (count() + multiplier.steps - 1) / multiplier.steps; }
  };

  void multiply_steps(Scratch& scratch, const RowBlock& block, int64_t col_begin, int64_t col_end,
                      const Steps& steps) const {
    const int64_t units = steps.units();
    pack_rows_of_c(scratch, block, steps);
    // Stored rows that are steps of k serve every column.
    for (int matrix = 0; matrix < (gemm_.side_by_side ? kSlivers : 1); ++matrix) {
      const Operand& b = steps.segment.b[matrix];
      if (!b.k_contiguous && !b.absent)
        list_steps(b, block.group, steps.begin, steps.count(), scratch.b_rows[matrix]);
    }
    float* c = scratch.c.get();
    for (int64_t col = col_begin; col < col_end; col += tile_columns_) {
      pack_columns_of_c(scratch, block.group, col, steps);
      const float* a = scratch.a.get();
      for_each_tile(block, [&](int64_t /*row*/, int rows) {
        steps.multiplier.products[rows - 1]({.units = units,
                                             .a = a,
                                             .b0 = scratch.b.get(),
                                             .b1 = scratch.b.get() + units * table_.width,
                                             .c = c,
                                             .accumulate = steps.accumulate});
        a += rows * units;
        c += rows * kSlivers * table_.width;
      });
    }
  }

  // A, tile after tile.
  void pack_rows_of_c(Scratch& scratch, const RowBlock& block, const Steps& steps) const {
    const Operand& operand = steps.segment.a;
    auto& rows = scratch.a_rows;
    if (!operand.k_contiguous) list_steps(operand, block.group, steps.begin, steps.count(), rows);
    float* panel = scratch.a.get();
    for_each_tile(block, [&](int64_t row, int count) {
      if (operand.k_contiguous) list_rows(operand, block.group, row, count, rows);
      steps.multiplier.pack_a({.rows = rows.data(),
                               .offset = operand.k_contiguous ? steps.begin : row,
                               .lanes = count,
                               .pitch = count,
                               .steps = steps.count(),
                               .panel = panel});
      panel += count * steps.units();
    });
  }

  // B's two slivers for the tile that starts at column `col`.
  void pack_columns_of_c(Scratch& scratch, int64_t group, int64_t col, const Steps& steps) const {
    const int64_t size = steps.units() * table_.width;
    for (int sliver = 0; sliver < kSlivers; ++sliver) {
      const int matrix = gemm_.side_by_side ? sliver : 0;
      const Operand& b = steps.segment.b[matrix];
      auto& rows = scratch.b_rows[matrix];
      float* panel = scratch.b.get() + sliver * size;
      if (b.absent) {
        std::fill_n(panel, size, 0.0f);
        continue;
      }
      const int64_t first = gemm_.side_by_side ? col : col + sliver * table_.width;
      const auto lanes = static_cast<int>(std::clamp<int64_t>(gemm_.n - first, 0, table_.width));
      if (b.k_contiguous) list_rows(b, group, first, lanes, rows);
      steps.multiplier.pack_b({.rows = rows.data(),
                               .offset = b.k_contiguous ? steps.begin : first,
                               .lanes = lanes,
                               .pitch = table_.width,
                               .steps = steps.count(),
                               .panel = panel});
    }
  }

  void finish(const Scratch& scratch, const RowBlock& block, int64_t col_begin, int64_t col_end) const {
    const float* c = scratch.c.get();
    for (int64_t col = col_begin; col < col_end; col += tile_columns_) {
      const auto lanes = static_cast<int>(std::min(tile_columns_, gemm_.n - col));
      for_each_tile(block, [&](int64_t row, int rows) {
        epilogue_({.c = c, .group = block.group, .row = row, .col = col, .rows = rows, .lanes = lanes});
        c += rows * kSlivers * table_.width;
      });
    }
  }

  // Tiles of nearly equal height: a small last one would waste its loads of B.
  template <class Visit>
  void for_each_tile(const RowBlock& block, Visit visit) const {
    const int64_t tiles = (block.rows + table_.tile_rows - 1) / table_.tile_rows;
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t begin = block.rows * i / tiles, end = block.rows * (i + 1) / tiles;
      visit(block.row + begin, static_cast<int>(end - begin));
    }
  }

  // Rows of C or columns of C, one stored row each. Ragged rows are numbered over all groups already.
  static void list_rows(const Operand& operand, int64_t group, int64_t first, int64_t count,
                        Scratch::StoredRows& rows) {
    for (int64_t i = 0; i < count; ++i) rows[static_cast<size_t>(i)] = row_of(operand, group, first + i);
  }

  // Steps of k, one stored row each: of the weight, or routed rows of the group.
  void list_steps(const Operand& operand, int64_t group, int64_t first, int64_t count,
                  Scratch::StoredRows& rows) const {
    if (gemm_.ragged == Ragged::k) first += begin_of(group);
    list_rows(operand, group, first, count, rows);
  }

  const GroupedGemm& gemm_;
  const std::function<void(const Tile&)>& epilogue_;
  const Kernels& table_;
  const int64_t tile_columns_;
  std::vector<Multiplier> multipliers_;
  std::vector<RowBlock> blocks_;
};

}  // namespace

const void* row_of(const Operand& operand, int64_t group, int64_t i) {
  const int64_t position = operand.row_index != nullptr ? operand.row_index[i] / operand.row_divisor : i;
  const int64_t element = group * operand.group_stride + position * operand.row_stride;
  return static_cast<const char*>(operand.data) + element * static_cast<int64_t>(bytes_of(operand.dtype));
}

int64_t tile_columns(bool side_by_side) {
  return static_cast<int64_t>(kernels().width) * (side_by_side ? 1 : kSlivers);
}

void grouped_gemm(const GroupedGemm& gemm, const std::function<void(const Tile&)>& epilogue) {
  if (gemm.n > 0) Product(gemm, epilogue).run();
}

}  // namespace moe::cpu
