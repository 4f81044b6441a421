#include "cpu/grouped_gemm.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "cpu/block_product.h"
#include "cpu/thread_pool.h"
#ifdef MOE_TEST_SLOWDOWN
#include "test/native/support/slowdown.h"
#endif

namespace moe::cpu {
namespace {

// So many blocks of C for each thread, lest the others wait long for the last; but none of fewer columns than
// so many tiles, for which its rows are packed. A single tile of rows costs next to nothing to pack.
constexpr int64_t kBlocksPerThread = 16, kLeastColumnTiles = 4;
constexpr int64_t kFewRowsBlocksPerThread = 64;
// Below this many multiply-adds, waking another thread costs more than it brings.
constexpr int64_t kSerialWork = 1 << 19;

// Splits each group's rows of C evenly into blocks of at most kBlockRowTiles tiles.
std::vector<RowBlock> row_blocks(const GroupedGemm& gemm) {
  const int64_t most = int64_t{kBlockRowTiles} * kernels().tile_rows;
  const bool ragged = gemm.ragged == Ragged::m;
  std::vector<RowBlock> blocks;
  for (int64_t group = 0; group < gemm.groups; ++group) {
    const int64_t first = ragged ? begin_of(gemm, group) : 0;
    const int64_t rows = ragged ? rows_of(gemm, group) : gemm.m;
    const int64_t count = (rows + most - 1) / most;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t begin = rows * i / count, end = rows * (i + 1) / count;
      blocks.push_back({group, first + begin, end - begin});
    }
  }
  return blocks;
}

// All blocks of C, the rows of a group after each other.
class Blocks {
 public:
  Blocks(const GroupedGemm& gemm, int64_t tile_columns) : n_(gemm.n), rows_(row_blocks(gemm)) {
    int64_t most_rows = 1;
    for (const RowBlock& block : rows_) most_rows = std::max(most_rows, block.rows);
    columns_ = tile_columns * column_tiles(tile_columns, most_rows);
    per_rows_ = (n_ + columns_ - 1) / columns_;
  }

  int64_t count() const { return static_cast<int64_t>(rows_.size()) * per_rows_; }
  // None from the last on.
  Block operator[](int64_t index) const {
    if (index >= count()) return {};
    const int64_t col = index % per_rows_ * columns_;
    return {.rows = &rows_[static_cast<size_t>(index / per_rows_)],
            .col_begin = col,
            .col_end = std::min(n_, col + columns_)};
  }

 private:
  // Of each block. A is packed once for each: the fewer of those the better, as long as C fits.
  int64_t column_tiles(int64_t tile_columns, int64_t most_rows) const {
    const int tile_rows = kernels().tile_rows;
    const bool few_rows = most_rows <= tile_rows;
    const int64_t fit = int64_t{kBlockRowTiles} * tile_rows * kBlockColumnTiles / most_rows;
    const int64_t tiles = (n_ + tile_columns - 1) / tile_columns * static_cast<int64_t>(rows_.size());
    const int64_t blocks =
        (few_rows ? kFewRowsBlocksPerThread : kBlocksPerThread) * ThreadPool::instance().threads();
    return std::min(fit, std::max(tiles / blocks, few_rows ? int64_t{1} : kLeastColumnTiles));
  }

  const int64_t n_;
  const std::vector<RowBlock> rows_;
  int64_t columns_ = 1, per_rows_ = 1;
};

int64_t work_of(const GroupedGemm& gemm) {
  const int64_t rows = begin_of(gemm, gemm.groups) - begin_of(gemm, 0);
  const int64_t columns = gemm.n * (gemm.side_by_side ? 2 : 1);
  int64_t k = 0;
  for (const Segment& segment : gemm.segments) k += segment.k;
  return rows * columns * (gemm.ragged == Ragged::m ? k : gemm.m);
}

}  // namespace

const void* row_of(const Operand& operand, int64_t group, int64_t i) {
  const int64_t position = operand.row_index != nullptr ? operand.row_index[i] / operand.row_divisor : i;
  const int64_t element = group * operand.group_stride + position * operand.row_stride;
  return static_cast<const char*>(operand.data) + element * static_cast<int64_t>(bytes_of(operand.dtype));
}

int64_t tile_columns(bool side_by_side) {
  return static_cast<int64_t>(kernels().width) * (side_by_side ? 1 : kSlivers);
}

void grouped_gemm(const GroupedGemm& gemm, const Epilogue& epilogue) {
  if (gemm.n == 0) return;
#ifdef MOE_TEST_SLOWDOWN
  const test::Slowdown slowdown;
#endif
  const ProductPlan plan = {.gemm = gemm, .epilogue = epilogue};
  const Blocks blocks(gemm, plan.tile_columns);
  std::atomic<int64_t> taken{0};
  // Each thread takes its next block before it begins one, so that it can ask memory for what that reads.
  const auto multiply_blocks = [&](int64_t /*thread*/) {
    const auto take = [&] { return taken.fetch_add(1, std::memory_order_relaxed); };
    BlockProduct product(plan);
    for (int64_t i = take(), next = 0; i < blocks.count(); i = next) {
      next = take();
      product.multiply(blocks[i], blocks[next]);
    }
  };
  if (work_of(gemm) < kSerialWork) {
    multiply_blocks(0);
  } else {
    ThreadPool::instance().parallel_for(ThreadPool::instance().threads(), multiply_blocks);
  }
}

}  // namespace moe::cpu
