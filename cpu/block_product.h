// One thread's part of a grouped product: blocks of C, one after the other. Packs A, packs or reads B,
// multiplies tile by tile in runs of k, and hands finished tiles to the epilogue.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/grouped_gemm.h"
#include "cpu/stored_columns.h"

namespace moe::cpu {

// A block of C has at most kBlockRowTiles tiles of rows, and as many columns as fit the sums of
// kBlockColumnTiles tiles of those.
inline constexpr int kBlockRowTiles = 12;
inline constexpr int kBlockColumnTiles = 8;

// Rows of C within one group.
struct RowBlock {
  int64_t group, row, rows;
};

// A block of C: its rows, and which columns.
struct Block {
  const RowBlock* rows;  // or null: none
  int64_t col_begin, col_end;
};

// How a segment is multiplied: what its dtypes allow on this processor.
struct Multiplier {
  int steps;  // of k in one unit
  Chains chains;
  PackKernel pack_a, pack_b;
  PackKernel pack_a_words;  // of few rows, and of row quads
  const TileProduct* products;
  // Where B's k is contiguous; the second by eights of rows - 1, null where there are none.
  const FewRowsProduct* few_rows_products;
  const RowLanesProduct* row_lanes_products;
  RowLanesProduct row_quads_product;
};
std::vector<Multiplier> choose_multipliers(const GroupedGemm& gemm);

// A grouped product as all threads see it.
struct ProductPlan {
  const GroupedGemm& gemm;
  const Epilogue& epilogue;
  const std::vector<Multiplier> multipliers = choose_multipliers(gemm);
  const int64_t tile_columns = cpu::tile_columns(gemm.side_by_side);
};

class BlockProduct {
 public:
  explicit BlockProduct(const ProductPlan& plan);
  // What was finished is there for others to read.
  ~BlockProduct();
  BlockProduct(const BlockProduct&) = delete;
  BlockProduct& operator=(const BlockProduct&) = delete;

  // `next` is the block that is multiplied after this one: memory is asked for what that begins with.
  void multiply(const Block& block, const Block& next);

 private:
  struct Scratch;

  // How A and B meet: both as panels; or B as it is stored, transposed on its way where a single tile has all
  // rows, or broadcast to rows as lanes, each one, or one for each chain.
  enum class Form : uint8_t { panels, few_rows, row_lanes, row_quads };

  // A run of k within a block, short enough for the caches; without steps after the last. Where B's stored
  // rows are steps of k, each chain is a run of its own.
  struct Run {
    int segment = 0;
    Steps steps;
    Form form = Form::panels;
    int chain = 0, chains = 1;  // the first, and how many
    bool accumulate = false;    // to the sums of the runs before
    bool finishes = false;      // the sums
  };

  const Segment& segment_of(const Run& run) const { return plan_.gemm.segments[run.segment]; }
  const Multiplier& multiplier_of(const Run& run) const {
    return plan_.multipliers[static_cast<size_t>(run.segment)];
  }
  // Units of each chain: where they are packed, zeros are among them.
  int64_t chain_length(const Run& run) const {
    const Multiplier& multiplier = multiplier_of(run);
    return multiplier.chains.length((run.steps.count() + multiplier.steps - 1) / multiplier.steps);
  }
  // In A's panels, of all chains, and in B's, of the run's.
  int64_t a_units_of(const Run& run) const { return chain_length(run) * multiplier_of(run).chains.count; }
  int64_t b_units_of(const Run& run) const { return chain_length(run) * run.chains; }
  // Those that are packed of B.
  ChainSteps chain_steps_of(const Run& run) const {
    return {.steps = run.steps,
            .chains = run.chains == 1 ? multiplier_of(run).chains : Chains{},
            .chain = run.chain};
  }
  int64_t k_of(const RowBlock& rows, int segment) const;
  Run first_run(const RowBlock& rows) const { return run_from(rows, 0, 0); }
  Run run_after(const RowBlock& rows, const Run& run) const;
  Run run_from(const RowBlock& rows, int segment, int64_t step, int chain = 0) const;
  Form form_of(const RowBlock& rows, const Segment& segment, const Multiplier& multiplier) const;
  int64_t longest_run(const RowBlock& rows, const Run& run) const;

  void multiply_run(const Block& block, const Run& run, const Block& next, const Run& next_run);
  void multiply_panels(const Block& block, const Run& run, int64_t col, float* c);
  void multiply_as_stored(const Block& block, const Run& run, int64_t col, float* c);
  void pack_rows(const RowBlock& rows, const Run& run);
  void pack_columns(const Run& run);
  bool follows_rows(const RowBlock& rows, const Run& run) const;
  void clear(float* sums, int64_t rows) const;
  StreamedTile streamed_tile(int64_t group, int64_t row, int64_t col) const;
  Tile tile_at(int64_t group, int64_t row, int rows, int64_t col, const float* c) const;
  void prefetch(int64_t group, int64_t row, int rows, int64_t col) const;
  void finish(int64_t group, int64_t row, int rows, int64_t col, const float* c) const;
  void finish_empty(const Block& block);

  int64_t strip_columns(const Run& run) const;
  void look_ahead(const Block& block, const Run& run, int64_t col);

  const ProductPlan& plan_;
  const Kernels& table_;
  const ColumnFinder finder_;
  Scratch& scratch_;
  // What is multiplied, and the first that is after the present strip. The last that were listed are in the
  // scratch memory's b_rows[turn_].
  StoredColumns columns_, upcoming_;
  int turn_ = 0;
  // What the upcoming strip reads, and how much of it each tile of C that comes before it asks for.
  Ahead ahead_;
  int64_t lines_per_tile_ = 0;
  // What A's panels hold.
  const RowBlock* packed_rows_ = nullptr;
  int packed_segment_ = 0;
  Steps packed_steps_;
};

}  // namespace moe::cpu
