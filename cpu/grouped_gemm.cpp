#include "cpu/grouped_gemm.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "cpu/memory.h"
#include "cpu/stored_columns.h"
#include "cpu/thread_pool.h"

namespace moe::cpu {
namespace {

// A task's block of C has at most kBlockRowTiles tiles of rows, and as many columns as fit the sums of
// kBlockColumnTiles tiles of those. Per run of k it keeps its blocks of A (168 x 512 floats on AVX-512) and C
// (168 x 256, or fewer rows by more columns) in the second-level cache, and one panel of B (512 x 32) close
// by.
constexpr int kBlockRowTiles = 12;
constexpr int kBlockColumnTiles = 8;
constexpr int64_t kBlockUnits = 512;
// Of rows that make a single tile, where nothing of B is kept: the longer, the more memory is read in the
// order of its addresses. A is no larger than above.
constexpr int64_t kFewRowsUnits = 4096;
static_assert(kFewRowsUnits <= kBlockRowTiles * kBlockUnits);
// So many tasks for each thread, lest the others wait long for the last; but no task of fewer columns, which
// would pack A too often.
constexpr int64_t kTasksPerThread = 16, kLeastColumnTiles = 4;
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
  // Stored rows of A, and of B for the present tile and the next, that take part in a block of k.
  const void* a_rows[2 * kBlockUnits];
  const void* b_rows[2][kSlivers * 2 * kBlockUnits];
};

// The rows of C of one task, within one group, and its columns.
struct RowBlock {
  int64_t group, row, rows;
};
struct Columns {
  int64_t begin, end;
};

// How a segment is multiplied: what its dtypes allow on this processor.
struct Multiplier {
  int steps;  // of k in one unit
  PackKernel pack_a, pack_b;
  const TileProduct* products;
  const FewRowsProduct* few_rows_products;  // where B's k is contiguous
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
          .products = table.tile_product[static_cast<size_t>(kind)],
          .few_rows_products =
              table.few_rows_product[static_cast<size_t>(kind)][static_cast<size_t>(segment.b[0].dtype)]};
}

class Product {
 public:
  Product(const GroupedGemm& gemm, const std::function<void(const Tile&)>& epilogue)
      : gemm_(gemm),
        epilogue_(epilogue),
        table_(kernels()),
        finder_(gemm, table_),
        tile_columns_(tile_columns(gemm.side_by_side)) {
    for (const Segment& segment : gemm.segments)
      multipliers_.push_back(choose_multiplier(table_, segment, gemm.exact));
  }

  void run() {
    find_row_blocks();
    const int64_t block_columns = block_column_tiles() * tile_columns_;
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

  // A is packed once for each block of columns: the fewer of those the better, as long as C fits.
  int64_t block_column_tiles() const {
    int64_t rows = 1;
    for (const RowBlock& block : blocks_) rows = std::max(rows, block.rows);
    const int64_t fit = int64_t{kBlockRowTiles} * table_.tile_rows * kBlockColumnTiles / rows;
    const int64_t tiles =
        (gemm_.n + tile_columns_ - 1) / tile_columns_ * static_cast<int64_t>(blocks_.size());
    const int64_t shared = tiles / (kTasksPerThread * ThreadPool::instance().threads());
    return std::min(fit, std::max(shared, kLeastColumnTiles));
  }

  void run_block(const RowBlock& block, int64_t col_begin, int64_t col_end) const {
    Scratch& scratch = Scratch::of_this_thread();
    const Columns columns = {.begin = col_begin, .end = col_end};
    const auto k_of = [&](int segment) {
      return gemm_.ragged == Ragged::k ? rows_of(block.group) : gemm_.segments[segment].k;
    };
    int last = gemm_.segments.size() - 1;
    while (last >= 0 && k_of(last) == 0) --last;
    bool accumulate = false;
    for (int i = 0; i <= last; ++i) {
      const Segment& segment = gemm_.segments[i];
      const Multiplier& multiplier = multipliers_[static_cast<size_t>(i)];
      const int64_t k = k_of(i);
      const bool few_rows =
          block.rows <= table_.tile_rows && segment.a.k_contiguous && segment.b[0].k_contiguous;
      const int64_t most = (few_rows ? kFewRowsUnits : kBlockUnits) * multiplier.steps;
      for (int64_t step = 0; step < k; step += most) {
        const int64_t end = std::min(k, step + most);
        multiply_run(scratch, block, columns,
                     {.segment = segment,
                      .multiplier = multiplier,
                      .steps = {.begin = step, .end = end},
                      .next = {.begin = end, .end = std::min(k, end + most)},
                      .few_rows = few_rows,
                      .accumulate = accumulate,
                      .finishes = i == last && end == k});
        accumulate = true;
      }
    }
    if (last < 0) finish_empty(scratch, block, columns);
  }

  // One run of k, and the next of its segment: without steps after the last.
  struct Run {
    const Segment& segment;
    const Multiplier& multiplier;
    Steps steps, next;
    bool few_rows;    // multiplied without panels of B
    bool accumulate;  // to the sums of the runs before
    bool finishes;    // the sums

    int64_t units() const { return (steps.count() + multiplier.steps - 1) / multiplier.steps; }
  };

  void multiply_run(Scratch& scratch, const RowBlock& block, const Columns& task, const Run& run) const {
    pack_rows_of_c(scratch, block, run);
    const Segment& segment = run.segment;
    const bool by_columns = segment.b[0].k_contiguous;
    // Those of the present tile and the next, by turns.
    StoredColumns columns[2];
    if (!by_columns) {
      columns[0] = columns[1] =
          finder_.list_steps(scratch.b_rows[0], segment, block.group, first_step(block.group), run.steps);
    }
    const auto find = [&](int turn, int64_t col, const Steps& steps) {
      if (by_columns) {
        columns[turn] = finder_.list_columns(scratch.b_rows[turn], segment, block.group, col, steps);
      } else {
        finder_.place(columns[turn], col);
      }
    };
    int turn = 0;
    find(turn, task.begin, run.steps);
    float* c = scratch.c.get();
    for (int64_t col = task.begin; col < task.end; col += tile_columns_, turn ^= 1) {
      // What this task reads next; of steps of k that were not listed yet, nothing.
      const bool more_columns = col + tile_columns_ < task.end;
      const bool more = more_columns || (by_columns && run.next.count() > 0);
      if (more_columns) {
        find(turn ^ 1, col + tile_columns_, run.steps);
      } else if (more) {
        find(turn ^ 1, task.begin, run.next);
      }
      const StoredColumns* next = more ? &columns[turn ^ 1] : nullptr;
      if (run.few_rows) {
        multiply_few_rows(scratch, block, col, columns[turn], next, run, c);
      } else {
        multiply_panels(scratch, block, col, columns[turn], next, run, c);
      }
      c += block.rows * kSlivers * table_.width;
    }
  }

  void multiply_panels(Scratch& scratch, const RowBlock& block, int64_t col, const StoredColumns& columns,
                       const StoredColumns* next, const Run& run, float* c) const {
    const int64_t units = run.units();
    pack_columns_of_c(scratch, columns, run);
    const int64_t tiles = (block.rows + table_.tile_rows - 1) / table_.tile_rows;
    const Ahead ahead = next != nullptr ? ahead_of(*next) : Ahead{};
    const float* a = scratch.a.get();
    int64_t tile = 0;
    for_each_tile(block, [&](int64_t row, int rows) {
      run.multiplier.products[rows - 1]({.units = units,
                                         .a = a,
                                         .b0 = scratch.b.get(),
                                         .b1 = scratch.b.get() + units * table_.width,
                                         .c = c,
                                         .accumulate = run.accumulate,
                                         .ahead = share_of(ahead, tile++, tiles)});
      if (run.finishes) finish(block.group, row, rows, col, c);
      a += rows * units;
      c += rows * kSlivers * table_.width;
    });
  }

  void multiply_few_rows(const Scratch& scratch, const RowBlock& block, int64_t col,
                         const StoredColumns& columns, const StoredColumns* next, const Run& run,
                         float* c) const {
    for (int i = 0; i < kSlivers; ++i) {
      const StoredColumns::Sliver& sliver = columns.slivers[i];
      float* sums = c + i * table_.width;
      if (sliver.lanes == 0) continue;
      if (sliver.absent) {
        if (!run.accumulate) clear(sums, block.rows);
        continue;
      }
      Ahead ahead;
      if (i + 1 < kSlivers) {
        ahead = ahead_of_sliver(columns, i + 1);
      } else if (next != nullptr) {
        ahead = ahead_of_sliver(*next, 0);
      }
      run.multiplier.few_rows_products[block.rows - 1]({.rows = sliver.rows,
                                                        .offset = sliver.offset,
                                                        .lanes = sliver.lanes,
                                                        .steps = run.steps.count(),
                                                        .a = scratch.a.get(),
                                                        .c = sums,
                                                        .accumulate = run.accumulate,
                                                        .ahead = ahead});
    }
    if (run.finishes) finish(block.group, block.row, static_cast<int>(block.rows), col, c);
  }

  void clear(float* sums, int64_t rows) const {
    for (int64_t row = 0; row < rows; ++row)
      std::fill_n(sums + row * kSlivers * table_.width, table_.width, 0.0f);
  }

  // A, tile after tile.
  void pack_rows_of_c(Scratch& scratch, const RowBlock& block, const Run& run) const {
    const Operand& operand = run.segment.a;
    const void** rows = scratch.a_rows;
    if (!operand.k_contiguous) {
      list_rows(operand, block.group, first_step(block.group) + run.steps.begin, run.steps.count(), rows);
    }
    float* panel = scratch.a.get();
    for_each_tile(block, [&](int64_t row, int count) {
      if (operand.k_contiguous) list_rows(operand, block.group, row, count, rows);
      run.multiplier.pack_a({.rows = rows,
                             .offset = operand.k_contiguous ? run.steps.begin : row,
                             .lanes = count,
                             .pitch = count,
                             .steps = run.steps.count(),
                             .panel = panel});
      panel += count * run.units();
    });
  }

  // B's two slivers for one tile.
  void pack_columns_of_c(Scratch& scratch, const StoredColumns& columns, const Run& run) const {
    float* panel = scratch.b.get();
    for (const StoredColumns::Sliver& sliver : columns.slivers) {
      if (sliver.absent) {
        std::fill_n(panel, run.units() * table_.width, 0.0f);
      } else {
        run.multiplier.pack_b({.rows = sliver.rows,
                               .offset = sliver.offset,
                               .lanes = sliver.lanes,
                               .pitch = table_.width,
                               .steps = run.steps.count(),
                               .panel = panel});
      }
      panel += run.units() * table_.width;
    }
  }

  void finish(int64_t group, int64_t row, int rows, int64_t col, const float* c) const {
    const auto lanes = static_cast<int>(std::min(tile_columns_, gemm_.n - col));
    epilogue_({.c = c, .group = group, .row = row, .col = col, .rows = rows, .lanes = lanes});
  }

  // Sums of no steps at all.
  void finish_empty(const Scratch& scratch, const RowBlock& block, const Columns& task) const {
    float* c = scratch.c.get();
    std::fill_n(c, table_.tile_rows * kSlivers * table_.width, 0.0f);
    for (int64_t col = task.begin; col < task.end; col += tile_columns_)
      for_each_tile(block, [&](int64_t row, int rows) { finish(block.group, row, rows, col, c); });
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

  // The first stored row of a group that is a step of k: of the weight, or of the group's routed rows.
  int64_t first_step(int64_t group) const { return gemm_.ragged == Ragged::k ? begin_of(group) : 0; }

  const GroupedGemm& gemm_;
  const std::function<void(const Tile&)>& epilogue_;
  const Kernels& table_;
  const ColumnFinder finder_;
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
