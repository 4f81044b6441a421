#include "cpu/block_product.h"

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "cpu/memory.h"
#include "cpu/processor.h"

namespace moe::cpu {
namespace {

// Per run of k, a block of A (168 x 512 floats on AVX-512) and of C (168 x 256, or fewer rows by more
// columns) stay in the second-level cache, and one panel of B (512 x 32) close by.
constexpr int64_t kBlockUnits = 512;
// Of rows that make a single tile, where nothing of B is kept: the longer, the more memory is read in the
// order of its addresses. A is no larger than above.
constexpr int64_t kFewRowsUnits = 4096;
static_assert(kFewRowsUnits <= kBlockRowTiles * kBlockUnits && kFewRowsUnits % kChainedUnits == 0);
// Where rows may be lanes: of more, B is packed once for all of them.
constexpr int64_t kMostLaneRows = 96;
// All rows of a block may be quads.
static_assert(kBlockRowTiles * kMaxTileRows <= kMaxQuadRows);
// Of B as stored, a processor that follows rows (cpu/processor.h) is led to the pages of long rows alone:
// asked for every line, it gets no more than its fill buffers take at a time. Short rows end before it
// follows, and more rows of A do not want them any faster.
constexpr int64_t kLeastFollowedBytes = 8192, kMostFollowedRows = 40;
// Where stored rows are steps of k: so many at a time, and so much of each is asked for together. Two such
// strips fit the second-level cache beside A and C; of more rows that lie a power of two apart, lines would
// drive each other out of the few sets that they share.
constexpr int64_t kStripSteps = 128, kStripBytes = 1024;
static_assert(kStripSteps <= kBlockUnits);
// Several chains have longer runs, so that their sums meet less often; and strips, for each is one chain's.
constexpr int64_t kChainedStripSteps = kChainedUnits / kMostChains;

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

Multiplier choose_multiplier(const Kernels& table, const Segment& segment, const GroupedGemm& gemm) {
  const bool has_pairs = table.tile_product[static_cast<size_t>(PanelKind::bfloat16_pairs)][0] != nullptr;
  const bool bfloat16s = segment.a.dtype == DType::bfloat16 && segment.b[0].dtype == DType::bfloat16;
  const PanelKind kind =
      has_pairs && bfloat16s && !gemm.exact ? PanelKind::bfloat16_pairs : PanelKind::floats;
  const auto pack_of = [&](const Operand& operand) {
    const auto& kernels = operand.k_contiguous ? table.pack_k_contiguous : table.pack_lanes_contiguous;
    return kernels[static_cast<size_t>(kind)][static_cast<size_t>(operand.dtype)];
  };
  const Chains forward = chains_of(kind, segment.b[0].dtype), chains = gemm.forward ? forward : Chains{};
  return {.steps = steps_per_unit(kind),
          .chains = chains,
          .pack_a = pack_of(segment.a),
          .pack_b = pack_of(segment.b[0]),
          .pack_a_words =
              chains.count > 1 ? table.pack_words[static_cast<size_t>(segment.a.dtype)] : pack_of(segment.a),
          .products = table.tile_product[static_cast<size_t>(kind)],
          .few_rows_products =
              chains.count == forward.count
                  ? table.few_rows_product[static_cast<size_t>(kind)][static_cast<size_t>(segment.b[0].dtype)]
                  : nullptr,
          .row_lanes_products =
              table.row_lanes_product[static_cast<size_t>(kind)][static_cast<size_t>(segment.b[0].dtype)],
          .row_quads_product =
              chains.count > 1 ? table.row_quads_product[static_cast<size_t>(segment.b[0].dtype)] : nullptr};
}

// A tile has at most so many rows of C; all but the last, a multiple of `step`.
struct TileHeight {
  int most;
  int step = 1;

  int64_t tiles_of(int64_t rows) const { return (rows + most - 1) / most; }
  int rounded_up(int64_t rows) const { return static_cast<int>((rows + step - 1) / step * step); }
};
constexpr TileHeight kLaneTile = {.most = kMaxRowEights * kRowLanes, .step = kRowLanes};
// A register of rows, a quad each.
TileHeight quad_tile(const Kernels& table) {
  const int rows = table.width / kMostChains;
  return {.most = rows, .step = rows};
}

// Tiles of nearly equal height: a small last one would waste its loads of B.
template <class Visit>
void for_each_tile(const RowBlock& block, TileHeight height, Visit visit) {
  const int64_t tiles = height.tiles_of(block.rows);
  const int64_t steps = (block.rows + height.step - 1) / height.step;
  const int64_t least = steps / tiles, with_one_more = steps % tiles;
  for (int64_t i = 0, begin = 0; i < tiles; ++i) {
    const int64_t own = (i < with_one_more ? least + 1 : least) * height.step;
    const int64_t count = std::min(own, block.rows - begin);
    visit(block.row + begin, static_cast<int>(count));
    begin += count;
  }
}

// The first stored row of a group that is a step of k: of the weight, or of the group's routed rows.
int64_t first_step(const GroupedGemm& gemm, int64_t group) {
  return gemm.ragged == Ragged::k ? begin_of(gemm, group) : 0;
}

}  // namespace

std::vector<Multiplier> choose_multipliers(const GroupedGemm& gemm) {
  std::vector<Multiplier> multipliers;
  for (const Segment& segment : gemm.segments)
    multipliers.push_back(choose_multiplier(kernels(), segment, gemm));
  return multipliers;
}

// One thread's packed blocks and sums, allocated on its first product.
struct BlockProduct::Scratch {
  explicit Scratch(const Kernels& table)
      : a(aligned_floats(kBlockRowTiles * table.tile_rows * kMostUnits)),
        b(aligned_floats(kSlivers * table.width * kMostUnits)),
        c(aligned_floats(int64_t{kBlockRowTiles} * table.tile_rows * kBlockColumnTiles * kSlivers *
                         table.width)) {}

  static Scratch& of_this_thread() {
    // On the heap: loaders have little room for what threads keep in place.
    thread_local const auto scratch = std::make_unique<Scratch>(kernels());
    // NOLINTNEXTLINE(clang-analyzer-cplusplus.NewDelete): the thread's, not the function's.
    return *scratch;
  }

  static constexpr int64_t kMostUnits = std::max(kBlockUnits, kChainedUnits);
  AlignedFloats a, b, c;
  const void* a_rows[2 * kBlockUnits];
  // Stored rows of B that take part in a run, for the present columns and the next by turns.
  const void* b_rows[2][kSlivers * std::max(kStripSteps, kChainedStripSteps)];
};

BlockProduct::BlockProduct(const ProductPlan& plan)
    : plan_(plan), table_(kernels()), finder_(plan.gemm, table_.width), scratch_(Scratch::of_this_thread()) {}

BlockProduct::~BlockProduct() {
  table_.settle();
}

int64_t BlockProduct::k_of(const RowBlock& rows, int segment) const {
  return plan_.gemm.ragged == Ragged::k ? rows_of(plan_.gemm, rows.group) : plan_.gemm.segments[segment].k;
}

BlockProduct::Run BlockProduct::run_after(const RowBlock& rows, const Run& run) const {
  const int chain = run.chain + run.chains;
  const bool same_steps = chain < multiplier_of(run).chains.count;
  Run after = same_steps ? run_from(rows, run.segment, run.steps.begin, chain)
                         : run_from(rows, run.segment, run.steps.end);
  after.accumulate = true;
  return after;
}

BlockProduct::Run BlockProduct::run_from(const RowBlock& rows, int segment, int64_t step, int chain) const {
  const int segments = plan_.gemm.segments.size();
  while (segment < segments && step == k_of(rows, segment)) {
    ++segment;
    step = 0;
  }
  if (segment == segments) return {};
  Run run = {.segment = segment};
  const Segment& of = segment_of(run);
  run.form = form_of(rows, of, multiplier_of(run));
  const int64_t k = k_of(rows, segment);
  run.steps = {.begin = step, .end = std::min(k, step + longest_run(rows, run))};
  const int chains = multiplier_of(run).chains.count;
  run.chain = chain;
  run.chains = of.b[0].k_contiguous ? chains : 1;
  run.finishes = run.steps.end == k && chain + run.chains == chains;
  for (int later = segment + 1; later < segments; ++later)
    run.finishes = run.finishes && k_of(rows, later) == 0;
  return run;
}

BlockProduct::Form BlockProduct::form_of(const RowBlock& rows, const Segment& segment,
                                         const Multiplier& multiplier) const {
  if (!segment.a.k_contiguous || !segment.b[0].k_contiguous) return Form::panels;
  const bool lanes_suit = table_.most_rows_beside_lanes < rows.rows && rows.rows <= kMostLaneRows;
  if (lanes_suit && multiplier.row_lanes_products[0] != nullptr) return Form::row_lanes;
  const bool few = rows.rows <= table_.tile_rows;
  if (few && multiplier.few_rows_products != nullptr) return Form::few_rows;
  return multiplier.row_quads_product != nullptr ? Form::row_quads : Form::panels;
}

// In steps of k.
int64_t BlockProduct::longest_run(const RowBlock& rows, const Run& run) const {
  const bool chained = multiplier_of(run).chains.count > 1;
  if (!segment_of(run).b[0].k_contiguous) return chained ? kChainedUnits : kStripSteps;
  const int steps = multiplier_of(run).steps;
  if (run.form == Form::panels) return (chained ? kChainedUnits : kBlockUnits) * steps;
  if (run.form == Form::few_rows) return kFewRowsUnits * steps;
  if (run.form == Form::row_quads) {
    const int64_t units =
        kBlockRowTiles * table_.tile_rows * kChainedUnits / quad_tile(table_).rounded_up(rows.rows);
    return units / kChainedUnits * kChainedUnits;
  }
  // A is no larger than in the other forms, and no line of B is cut.
  constexpr int64_t kLineUnits = kCacheLine / static_cast<int64_t>(sizeof(float));
  const int64_t units = kBlockRowTiles * table_.tile_rows * kBlockUnits / kLaneTile.rounded_up(rows.rows);
  return units / kLineUnits * kLineUnits * steps;
}

void BlockProduct::multiply(const Block& block, const Block& next) {
  Run run = first_run(*block.rows);
  if (run.steps.count() == 0) return finish_empty(block);
  if (columns_.rows == nullptr) {
    look_ahead(block, run, block.col_begin);
    columns_ = upcoming_;
  }
  while (true) {
    const Run after = run_after(*block.rows, run);
    if (after.steps.count() == 0) break;
    multiply_run(block, run, block, after);
    run = after;
  }
  multiply_run(block, run, next, next.rows != nullptr ? first_run(*next.rows) : Run{});
}

void BlockProduct::multiply_run(const Block& block, const Run& run, const Block& next, const Run& next_run) {
  pack_rows(*block.rows, run);
  const int64_t width = strip_columns(run);
  float* c = scratch_.c.get();
  for (int64_t begin = block.col_begin; begin < block.col_end; begin += width) {
    const int64_t end = std::min(begin + width, block.col_end);
    if (end < block.col_end) {
      look_ahead(block, run, end);
    } else {
      look_ahead(next, next_run, next.col_begin);
    }
    const int64_t tiles = TileHeight{.most = table_.tile_rows}.tiles_of(block.rows->rows) *
                          ((end - begin + plan_.tile_columns - 1) / plan_.tile_columns);
    lines_per_tile_ = (ahead_.lines + tiles - 1) / tiles;
    for (int64_t col = begin; col < end; col += plan_.tile_columns) {
      if (col > begin) finder_.place(columns_, col, plan_.tile_columns);
      if (run.form == Form::panels) {
        multiply_panels(block, run, col, c);
      } else {
        multiply_as_stored(block, run, col, c);
      }
      c += block.rows->rows * kSlivers * table_.width;
    }
    columns_ = upcoming_;
  }
}

void BlockProduct::multiply_panels(const Block& block, const Run& run, int64_t col, float* c) {
  const int64_t length = chain_length(run), b_units = b_units_of(run);
  pack_columns(run);
  const RowBlock& rows = *block.rows;
  const float* a = scratch_.a.get();
  for_each_tile(rows, {.most = table_.tile_rows}, [&](int64_t row, int count) {
    const StreamedTile streamed = run.finishes ? streamed_tile(rows.group, row, col) : StreamedTile{};
    if (run.finishes) prefetch(rows.group, row, count, col);
    multiplier_of(run).products[count - 1]({.units = length,
                                            .a = a + run.chain * length * count,
                                            .b0 = scratch_.b.get(),
                                            .b1 = scratch_.b.get() + b_units * table_.width,
                                            .c = c,
                                            .accumulate = run.accumulate,
                                            .first_chain = run.chain,
                                            .chains = run.chains,
                                            .streamed = streamed,
                                            .ahead = {.of = &ahead_, .lines = lines_per_tile_}});
    if (run.finishes && streamed.out == nullptr) finish(rows.group, row, count, col, c);
    a += count * a_units_of(run);
    c += count * kSlivers * table_.width;
  });
}

void BlockProduct::multiply_as_stored(const Block& block, const Run& run, int64_t col, float* c) {
  const RowBlock& rows = *block.rows;
  if (run.finishes) prefetch(rows.group, rows.row, static_cast<int>(rows.rows), col);
  for (int i = 0; i < kSlivers; ++i) {
    const StoredColumns::Sliver& sliver = columns_.slivers[i];
    float* sums = c + i * table_.width;
    if (sliver.lanes == 0) continue;
    if (sliver.absent) {
      if (!run.accumulate) clear(sums, rows.rows);
      continue;
    }
    const bool more = i + 1 < kSlivers;
    Ahead ahead = more ? ahead_of_sliver(columns_, i + 1) : ahead_of_sliver(upcoming_, 0);
    ahead.pages = follows_rows(rows, run);
    FewRowsArgs args = {.rows = sliver.rows,
                        .offset = sliver.offset,
                        .lanes = sliver.lanes,
                        .steps = run.steps.count(),
                        .a = scratch_.a.get(),
                        .c = sums,
                        .accumulate = run.accumulate,
                        .ahead = {.of = &ahead, .lines = ahead.lines}};
    if (run.form == Form::few_rows) {
      multiplier_of(run).few_rows_products[rows.rows - 1](args);
      continue;
    }
    if (run.form == Form::row_quads) {
      multiplier_of(run).row_quads_product({.stored = args, .rows = static_cast<int>(rows.rows)});
      continue;
    }
    for_each_tile(rows, kLaneTile, [&](int64_t /*row*/, int count) {
      const int lanes = kLaneTile.rounded_up(count);
      multiplier_of(run).row_lanes_products[lanes / kRowLanes - 1]({.stored = args, .rows = count});
      args.a += lanes * a_units_of(run);
      args.c += count * kSlivers * table_.width;
    });
  }
  if (!run.finishes) return;
  for_each_tile(rows, {.most = table_.tile_rows}, [&](int64_t row, int count) {
    finish(rows.group, row, count, col, c);
    c += count * kSlivers * table_.width;
  });
}

bool BlockProduct::follows_rows(const RowBlock& rows, const Run& run) const {
  const int64_t bytes = run.steps.count() * static_cast<int64_t>(bytes_of(segment_of(run).b[0].dtype));
  // Rows as quads read their columns by pieces, which it does not follow.
  const bool evenly = run.form != Form::row_quads;
  return evenly && processor().follows_rows && bytes >= kLeastFollowedBytes && rows.rows <= kMostFollowedRows;
}

void BlockProduct::clear(float* sums, int64_t rows) const {
  for (int64_t row = 0; row < rows; ++row)
    std::fill_n(sums + row * kSlivers * table_.width, table_.width, 0.0f);
}

// A, tile after tile; the next blocks of the same rows often find it there.
void BlockProduct::pack_rows(const RowBlock& rows, const Run& run) {
  if (packed_rows_ == &rows && packed_segment_ == run.segment && packed_steps_ == run.steps) return;
  packed_rows_ = &rows;
  packed_segment_ = run.segment;
  packed_steps_ = run.steps;
  const Operand& operand = segment_of(run).a;
  const void** stored = scratch_.a_rows;
  if (!operand.k_contiguous) {
    list_rows(operand, rows.group, first_step(plan_.gemm, rows.group) + run.steps.begin, run.steps.count(),
              stored);
  }
  float* panel = scratch_.a.get();
  const Multiplier& multiplier = multiplier_of(run);
  const bool by_words = run.form == Form::few_rows || run.form == Form::row_quads;
  const PackKernel pack = by_words ? multiplier.pack_a_words : multiplier.pack_a;
  const TileHeight height = run.form == Form::row_lanes   ? kLaneTile
                            : run.form == Form::row_quads ? quad_tile(table_)
                                                          : TileHeight{.most = table_.tile_rows};
  for_each_tile(rows, height, [&](int64_t row, int count) {
    if (operand.k_contiguous) list_rows(operand, rows.group, row, count, stored);
    pack({.rows = stored,
          .offset = operand.k_contiguous ? run.steps.begin : row,
          .lanes = count,
          .pitch = height.rounded_up(count),
          .steps = run.steps.count(),
          .panel = panel,
          .chains = multiplier.chains});
    panel += height.rounded_up(count) * a_units_of(run);
  });
}

// B's two slivers for one tile.
void BlockProduct::pack_columns(const Run& run) {
  const Multiplier& multiplier = multiplier_of(run);
  const int64_t size = b_units_of(run) * table_.width, steps = chain_steps_of(run).count();
  const PackArgs args = {.rows = columns_.rows,
                         .offset = columns_.offset,
                         .lanes = kSlivers * table_.width,
                         .pitch = table_.width,
                         .steps = steps,
                         .panel = scratch_.b.get(),
                         .chains = run.chains > 1 ? multiplier.chains : Chains{}};
  // Steps that a chain has fewer than others are zeros.
  const bool shorter = run.chains < multiplier.chains.count && steps < chain_length(run);
  if (columns_.is_whole() && !shorter) return multiplier.pack_b(args);
  PackArgs of_sliver = args;
  for (const StoredColumns::Sliver& sliver : columns_.slivers) {
    if (sliver.absent || shorter) std::fill_n(of_sliver.panel, size, 0.0f);
    if (!sliver.absent) {
      of_sliver.rows = sliver.rows;
      of_sliver.offset = sliver.offset;
      of_sliver.lanes = sliver.lanes;
      multiplier.pack_b(of_sliver);
    }
    of_sliver.panel += size;
  }
}

// Where a tile is streamed, if it is.
StreamedTile BlockProduct::streamed_tile(int64_t group, int64_t row, int64_t col) const {
  const StreamedBlocks& blocks = plan_.epilogue.streamed;
  if (blocks.out == nullptr || col + plan_.tile_columns > plan_.gemm.n) return {};
  const int64_t element = group * blocks.group_stride + row * blocks.row_stride + col;
  return {.out = static_cast<char*>(blocks.out) + element * static_cast<int64_t>(bytes_of(blocks.dtype)),
          .stride = blocks.row_stride,
          .dtype = blocks.dtype};
}

Tile BlockProduct::tile_at(int64_t group, int64_t row, int rows, int64_t col, const float* c) const {
  const auto lanes = static_cast<int>(std::min(plan_.tile_columns, plan_.gemm.n - col));
  return {.c = c, .group = group, .row = row, .col = col, .rows = rows, .lanes = lanes};
}

void BlockProduct::prefetch(int64_t group, int64_t row, int rows, int64_t col) const {
  if (plan_.epilogue.prefetch) plan_.epilogue.prefetch(tile_at(group, row, rows, col, nullptr));
}

void BlockProduct::finish(int64_t group, int64_t row, int rows, int64_t col, const float* c) const {
  plan_.epilogue.finish(tile_at(group, row, rows, col, c));
}

// Sums of no steps at all.
void BlockProduct::finish_empty(const Block& block) {
  float* c = scratch_.c.get();
  std::fill_n(c, table_.tile_rows * kSlivers * table_.width, 0.0f);
  for (int64_t col = block.col_begin; col < block.col_end; col += plan_.tile_columns) {
    for_each_tile(*block.rows, {.most = table_.tile_rows}, [&](int64_t row, int rows) {
      const StreamedTile streamed = streamed_tile(block.rows->group, row, col);
      if (streamed.out == nullptr) return finish(block.rows->group, row, rows, col, c);
      plan_.multipliers[0].products[rows - 1]({.c = c, .accumulate = true, .streamed = streamed});
    });
  }
}

// Columns that are asked for together: of stored rows that are steps of k, more bytes of each than a tile's,
// for memory is slow at single lines from many places.
int64_t BlockProduct::strip_columns(const Run& run) const {
  const Operand& b = segment_of(run).b[0];
  if (b.k_contiguous) return plan_.tile_columns;
  const bool chained = multiplier_of(run).chains.count > 1;
  const int64_t bytes = chained ? kStripBytes * kStripSteps / kChainedStripSteps : kStripBytes;
  const int64_t tile_bytes = plan_.tile_columns * static_cast<int64_t>(bytes_of(b.dtype));
  return plan_.tile_columns * std::max<int64_t>(1, bytes / tile_bytes);
}

// Finds the columns from `col` on, of a strip of a block's run, and asks for the strip from now on. There may
// be no block, or nothing to multiply in it.
void BlockProduct::look_ahead(const Block& block, const Run& run, int64_t col) {
  upcoming_ = {};
  ahead_ = {};
  if (block.rows == nullptr || run.steps.count() == 0) return;
  const int64_t group = block.rows->group;
  const Segment& segment = segment_of(run);
  const bool first = col == block.col_begin;
  if (segment.b[0].k_contiguous) {
    upcoming_ = finder_.list_columns(scratch_.b_rows[turn_ ^= 1], segment, group, col, run.steps);
    ahead_ = ahead_of(upcoming_);
    return;
  }
  upcoming_ = first ? finder_.list_steps(scratch_.b_rows[turn_ ^= 1], segment, group,
                                         first_step(plan_.gemm, group), chain_steps_of(run))
                    : columns_;
  finder_.place(upcoming_, col, std::min(strip_columns(run), block.col_end - col));
  ahead_ = ahead_of(upcoming_);
  finder_.place(upcoming_, col, plan_.tile_columns);
}

}  // namespace moe::cpu
