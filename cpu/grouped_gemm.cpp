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
    thread_local Scratch scratch(kernels());
    return scratch;
  }

  AlignedFloats a, b, c;
  // Rows of each operand that take part in the present block of k.
  std::array<const void*, 2 * kBlockUnits> a_rows, b_rows;
};

// The rows of C of one task, within one group.
struct RowBlock {
  int64_t group, row, rows;
};

class Product {
 public:
  Product(const GroupedGemm& gemm, const std::function<void(const Tile&)>& epilogue)
      : gemm_(gemm),
        epilogue_(epilogue),
        table_(kernels()),
        kind_(choose_kind()),
        steps_(steps_per_unit(kind_)) {
    const auto kind = static_cast<size_t>(kind_);
    const auto pack_of = [&](const Operand& operand, bool k_contiguous) {
      return (k_contiguous ? table_.pack_k_contiguous
                           : table_.pack_lanes_contiguous)[kind][static_cast<size_t>(operand.dtype)];
    };
    pack_a_ = pack_of(gemm.a, gemm.a_k_contiguous);
    pack_b_ = pack_of(gemm.b[0], gemm.b_k_contiguous);
    products_ = table_.tile_product[kind];
  }

  void run() {
    find_row_blocks();
    const int64_t block_columns = kBlockColumnTiles * tile_columns(gemm_.halves);
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
  PanelKind choose_kind() const {
    const bool has_pairs = table_.tile_product[static_cast<size_t>(PanelKind::bfloat16_pairs)][0] != nullptr;
    const bool bfloat16s = gemm_.a.dtype == DType::bfloat16 && gemm_.b[0].dtype == DType::bfloat16;
    return has_pairs && bfloat16s && !gemm_.exact ? PanelKind::bfloat16_pairs : PanelKind::floats;
  }

  int64_t rows_of(int64_t group) const { return gemm_.offsets[group + 1] - gemm_.offsets[group]; }

  int64_t work() const {
    const int64_t rows = gemm_.offsets[gemm_.groups] - gemm_.offsets[0];
    const int64_t columns = gemm_.n * (gemm_.halves == Halves::lanes ? 2 : 1);
    return gemm_.ragged == Ragged::m ? rows * columns * gemm_.k : rows * columns * gemm_.m;
  }

  // Splits each group's rows of C evenly into blocks of at most kBlockRowTiles tiles.
  void find_row_blocks() {
    const int64_t most = int64_t{kBlockRowTiles} * table_.tile_rows;
    for (int64_t group = 0; group < gemm_.groups; ++group) {
      const bool ragged = gemm_.ragged == Ragged::m;
      const int64_t first = ragged ? gemm_.offsets[group] : 0;
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
    const int64_t k = gemm_.ragged == Ragged::k ? rows_of(block.group) : gemm_.k;
    const int64_t middle = gemm_.halves == Halves::steps ? k / 2 : k;
    if (k == 0) {
      const int64_t columns = tile_columns(gemm_.halves);
      const int64_t tiles = (col_end - col_begin + columns - 1) / columns;
      std::fill_n(scratch.c.get(), tiles * block.rows * kSlivers * table_.width, 0.0f);
    }
    for (int64_t step = 0; step < k;) {
      // A block of k never spans both halves.
      const int64_t end = std::min(step + kBlockUnits * steps_, step < middle ? middle : k);
      multiply_steps(scratch, block, col_begin, col_end,
                     {.begin = step, .end = end, .half = step < middle ? 0 : 1});
      step = end;
    }
    finish(scratch, block, col_begin, col_end);
  }

  // Steps [begin, end) of k, all within one half of B.
  struct Steps {
    int64_t begin, end;
    int half;
    int64_t count() const { return end - begin; }
  };

  void multiply_steps(Scratch& scratch, const RowBlock& block, int64_t col_begin, int64_t col_end,
                      Steps steps) const {
    const int64_t units = (steps.count() + steps_ - 1) / steps_;
    pack_rows_of_c(scratch, block, steps, units);
    // Stored rows that are steps of k serve every column. Halves along lanes have their lanes in stored rows.
    if (!gemm_.b_k_contiguous) {
      list_steps(gemm_.b[steps.half], block.group, first_stored_step(steps), steps.count(), scratch.b_rows);
    }
    float* c = scratch.c.get();
    for (int64_t col = col_begin; col < col_end; col += tile_columns(gemm_.halves)) {
      pack_columns_of_c(scratch, block.group, col, steps, units);
      const float* a = scratch.a.get();
      for_each_tile(block, [&](int64_t /*row*/, int rows) {
        products_[rows - 1]({.units = units,
                             .a = a,
                             .b0 = scratch.b.get(),
                             .b1 = scratch.b.get() + units * table_.width,
                             .c = c,
                             .accumulate = steps.begin > 0});
        a += rows * units;
        c += rows * kSlivers * table_.width;
      });
    }
  }

  // Where `steps` begin within their half of B.
  int64_t first_stored_step(Steps steps) const {
    return steps.half == 1 ? steps.begin - gemm_.k / 2 : steps.begin;
  }

  // A, tile after tile.
  void pack_rows_of_c(Scratch& scratch, const RowBlock& block, Steps steps, int64_t units) const {
    const auto& rows = scratch.a_rows;
    if (!gemm_.a_k_contiguous) list_steps(gemm_.a, block.group, steps.begin, steps.count(), scratch.a_rows);
    float* panel = scratch.a.get();
    for_each_tile(block, [&](int64_t row, int count) {
      if (gemm_.a_k_contiguous) list_rows(gemm_.a, block.group, row, count, scratch.a_rows);
      pack_a_({.rows = rows.data(),
               .offset = gemm_.a_k_contiguous ? steps.begin : row,
               .lanes = count,
               .pitch = count,
               .steps = steps.count(),
               .panel = panel});
      panel += count * units;
    });
  }

  // B's two slivers for the tile that starts at column `col`.
  void pack_columns_of_c(Scratch& scratch, int64_t group, int64_t col, Steps steps, int64_t units) const {
    const bool by_lanes = gemm_.halves == Halves::lanes;
    for (int sliver = 0; sliver < kSlivers; ++sliver) {
      const Operand& b = gemm_.b[by_lanes ? sliver : steps.half];
      const int64_t first = by_lanes ? col : col + sliver * table_.width;
      const auto lanes = static_cast<int>(std::clamp<int64_t>(gemm_.n - first, 0, table_.width));
      if (gemm_.b_k_contiguous) list_rows(b, group, first, lanes, scratch.b_rows);
      pack_b_({.rows = scratch.b_rows.data(),
               .offset = gemm_.b_k_contiguous ? first_stored_step(steps) : first,
               .lanes = lanes,
               .pitch = table_.width,
               .steps = steps.count(),
               .panel = scratch.b.get() + sliver * units * table_.width});
    }
  }

  void finish(const Scratch& scratch, const RowBlock& block, int64_t col_begin, int64_t col_end) const {
    const float* c = scratch.c.get();
    for (int64_t col = col_begin; col < col_end; col += tile_columns(gemm_.halves)) {
      const auto lanes = static_cast<int>(std::min(tile_columns(gemm_.halves), gemm_.n - col));
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
  template <class Rows>
  void list_rows(const Operand& operand, int64_t group, int64_t first, int64_t count, Rows& rows) const {
    for (int64_t i = 0; i < count; ++i) rows[static_cast<size_t>(i)] = row_of(operand, group, first + i);
  }

  // Steps of k, one stored row each: of the weight, or routed rows of the group.
  template <class Rows>
  void list_steps(const Operand& operand, int64_t group, int64_t first, int64_t count, Rows& rows) const {
    if (gemm_.ragged == Ragged::k) first += gemm_.offsets[group];
    list_rows(operand, group, first, count, rows);
  }

  const GroupedGemm& gemm_;
  const std::function<void(const Tile&)>& epilogue_;
  const Kernels& table_;
  const PanelKind kind_;
  const int steps_;
  PackKernel pack_a_ = nullptr, pack_b_ = nullptr;
  const TileProduct* products_ = nullptr;
  std::vector<RowBlock> blocks_;
};

}  // namespace

const void* row_of(const Operand& operand, int64_t group, int64_t i) {
  const int64_t position = operand.row_index != nullptr ? operand.row_index[i] / operand.row_divisor : i;
  const int64_t element = group * operand.group_stride + position * operand.row_stride;
  return static_cast<const char*>(operand.data) + element * static_cast<int64_t>(bytes_of(operand.dtype));
}

int64_t tile_columns(Halves halves) {
  return static_cast<int64_t>(kernels().width) * (halves == Halves::lanes ? 1 : kSlivers);
}

void grouped_gemm(const GroupedGemm& gemm, const std::function<void(const Tile&)>& epilogue) {
  if (gemm.n > 0) Product(gemm, epilogue).run();
}

}  // namespace moe::cpu
