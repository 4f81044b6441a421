// Tile products: for floats the bits of chains of multiply-adds over ascending k, which makes every
// instruction set that fuses agree with every other; for bfloat16 pairs a bound against float64.
#include <algorithm>
#include <cstring>

#include "support/expect.h"

namespace moe::test {
namespace {

using cpu::PanelKind;

// The panels of one tile, and C before the product where it is added to.
struct TileCase {
  TileCase(const cpu::Kernels& kernels, PanelKind panels, int tile_rows, int chain_count, int64_t length,
           bool add, Random& random)
      : table(kernels),
        kind(panels),
        rows(tile_rows),
        chains(chain_count),
        units(chain_count * length),
        accumulate(add),
        pitch(cpu::kSlivers * kernels.width),
        a(dtype(), units * tile_rows * steps_per_unit(panels), random),
        b0(dtype(), units * kernels.width * steps_per_unit(panels), random),
        b1(dtype(), units * kernels.width * steps_per_unit(panels), random),
        before(DType::float32, rows * pitch, random),
        c(DType::float32, rows * pitch) {
    reset();
  }

  void reset() {
    if (accumulate) std::memcpy(c.at(0), before.at(0), static_cast<size_t>(rows * pitch) * sizeof(float));
  }

  DType dtype() const { return kind == PanelKind::floats ? DType::float32 : DType::bfloat16; }

  void run(const cpu::StreamedTile& streamed = {}, const cpu::AheadShare& ahead = {}) {
    table.tile_product[static_cast<size_t>(kind)][rows - 1]({.units = units / chains,
                                                             .a = a.f32(),
                                                             .b0 = b0.f32(),
                                                             .b1 = b1.f32(),
                                                             .c = c.f32(),
                                                             .accumulate = accumulate,
                                                             .chains = chains,
                                                             .streamed = streamed,
                                                             .ahead = ahead});
  }

  // Calls visit(a, b) for the steps of an element of C, in their order; of all chains, or of one.
  template <class Visit>
  void each_step(int64_t row, int64_t lane, Visit visit) const {
    for (int chain = 0; chain < chains; ++chain) each_step_of(chain, row, lane, visit);
  }
  template <class Visit>
  void each_step_of(int chain, int64_t row, int64_t lane, Visit visit) const {
    const int per_unit = steps_per_unit(kind);
    const Array& b = lane < table.width ? b0 : b1;
    const int64_t length = units / chains;
    for (int64_t unit = chain * length; unit < (chain + 1) * length; ++unit) {
      for (int half = 0; half < per_unit; ++half) {
        visit(a[(unit * rows + row) * per_unit + half],
              b[(unit * table.width + lane % table.width) * per_unit + half]);
      }
    }
  }

  const cpu::Kernels& table;
  PanelKind kind;
  int rows, chains;
  int64_t units;  // of all chains
  bool accumulate;
  int64_t pitch;
  Array a, b0, b1, before, c;
};

bool has_bits_of_chains(const TileCase& tile) {
  for (int64_t i = 0; i < tile.c.size(); ++i) {
    auto sum = static_cast<float>(tile.accumulate ? tile.before[i] : 0.0);
    for (int chain = 0; chain < tile.chains; ++chain) {
      float own = chain == 0 ? sum : 0;
      tile.each_step_of(chain, i / tile.pitch, i % tile.pitch, [&](double a, double b) {
        own = multiply_add(tile.table, static_cast<float>(a), static_cast<float>(b), own);
      });
      sum = chain == 0 ? own : sum + own;
    }
    uint32_t bits;
    std::memcpy(&bits, &sum, sizeof bits);
    if (tile.c.bits(i) != bits) return false;
  }
  return tile.c.guard_untouched();
}

// Streams a tile to rows of a dtype that are `gap` cache lines apart: they have the bits of sums that are
// stored, and nothing else is written.
void check_streamed(TileCase& tile, DType dtype, int64_t gap) {
  const int64_t line = cpu::kCacheLine / static_cast<int64_t>(bytes_of(dtype));
  if (tile.pitch % line != 0) return;
  const int64_t stride = tile.pitch + gap * line;
  // The last row ends with a page: all are aligned.
  const int64_t span = Matrix::span(tile.rows, tile.pitch, stride);
  Array streamed(dtype, span), stored(dtype, span);
  tile.reset();
  tile.run({.out = streamed.at(0), .stride = stride, .dtype = dtype});
  tile.table.settle();
  tile.reset();
  tile.run();
  tile.table.store({.c = tile.c.f32(),
                    .rows = tile.rows,
                    .lanes = static_cast<int>(tile.pitch),
                    .out = stored.at(0),
                    .out_stride = stride,
                    .dtype = dtype,
                    .accumulate = false,
                    .bias = nullptr,
                    .bias_dtype = DType::float32});
  int64_t different = 0;
  for (int64_t i = 0; i < span; ++i) different += streamed.bits(i) != stored.bits(i);
  CHECK_EQ(different, 0);
  CHECK(streamed.guard_untouched());
}

// A tile asks for as many lines as it is told to, or has units: the next ones in the order of their rows,
// until none are left.
void check_share_of_lines(TileCase& tile, int64_t share) {
  constexpr int64_t kRows = 5, kLinesOfRow = 3, kBegin = 8;
  const Array stored(DType::float32, kRows * kLinesOfRow * cpu::kCacheLine / 4 + kBegin);
  const void* rows[kRows];
  for (int64_t i = 0; i < kRows; ++i) rows[i] = stored.at(i * kLinesOfRow * cpu::kCacheLine / 4);
  cpu::Ahead ahead = {.row = rows,
                      .begin = kBegin,
                      .end = kBegin + kLinesOfRow * cpu::kCacheLine,
                      .at = kBegin,
                      .lines = kRows * kLinesOfRow};
  for (int64_t left = ahead.lines; left > 0 && share > 0;) {
    left -= std::min({share, tile.units, left});
    tile.run({}, {.of = &ahead, .lines = share});
    const int64_t asked = (ahead.row - rows) * kLinesOfRow + (ahead.at - kBegin) / cpu::kCacheLine;
    if (ahead.lines != left || asked != kRows * kLinesOfRow - left) FAIL_CHECK("asked for ", asked, " lines");
    if (ahead.lines != left) return;
  }
  tile.run({}, {.of = &ahead, .lines = share});
  CHECK_EQ(ahead.lines, share > 0 ? 0 : kRows * kLinesOfRow);
}

template <class Body>
void for_each_tile_case(const cpu::Kernels& table, PanelKind kind, Body body) {
  Random random(2);
  for (int rows = 1; rows <= table.tile_rows; ++rows) {
    for (int64_t units : {1, 2, 7, 33}) {
      for (int chains : {1, cpu::kMostChains}) {
        for (bool accumulate : {false, true}) {
          CAPTURE(rows);
          CAPTURE(chains);
          CAPTURE(units);
          CAPTURE(accumulate);
          TileCase tile(table, kind, rows, chains, units, accumulate, random);
          body(tile);
        }
      }
    }
  }
}

}  // namespace

TEST_SUITE("kernels") {
  TEST_CASE("float tiles are chains of multiply-adds over ascending k") {
    for_each_table([](const cpu::Kernels& table) {
      for_each_tile_case(table, PanelKind::floats, [](TileCase& tile) {
        tile.run();
        if (!has_bits_of_chains(tile)) FAIL_CHECK("the bits differ");
      });
    });
  }

  TEST_CASE("bfloat16 pair tiles agree with float64") {
    for_each_table([](const cpu::Kernels& table) {
      if (table.tile_product[static_cast<size_t>(PanelKind::bfloat16_pairs)][0] == nullptr) return;
      for_each_tile_case(table, PanelKind::bfloat16_pairs, [](TileCase& tile) {
        tile.run();
        const auto want = [&](int64_t row, int64_t lane) {
          double sum = tile.accumulate ? tile.before[row * tile.pitch + lane] : 0;
          tile.each_step(row, lane, [&](double a, double b) { sum += a * b; });
          return sum;
        };
        check_close({tile.c, tile.rows, tile.pitch, tile.pitch}, want, bound_of(DType::float32));
      });
    });
  }

  TEST_CASE("streamed sums have the bits of stored ones") {
    for_each_table([](const cpu::Kernels& table) {
      for (PanelKind kind : {PanelKind::floats, PanelKind::bfloat16_pairs}) {
        if (table.tile_product[static_cast<size_t>(kind)][0] == nullptr) continue;
        for_each_tile_case(table, kind, [](TileCase& tile) {
          for (DType dtype : kFloatDTypes) {
            INFO("to ", std::string(name_of(dtype)));
            for (int64_t gap : {0, 3}) check_streamed(tile, dtype, gap);
          }
        });
      }
    });
  }

  TEST_CASE("tiles ask for the lines that follow, as many as they are told to") {
    for_each_table([](const cpu::Kernels& table) {
      for_each_tile_case(table, PanelKind::floats, [](TileCase& tile) {
        for (int64_t share : {0, 1, 4, 40}) {
          CAPTURE(share);
          check_share_of_lines(tile, share);
        }
      });
    });
  }

  TEST_CASE("every table has products for all its row counts and no more") {
    for_each_table([](const cpu::Kernels& table) {
      CHECK(table.tile_rows <= cpu::kMaxTileRows);
      for (int row = 0; row < cpu::kMaxTileRows; ++row)
        CHECK_EQ(table.tile_product[0][row] != nullptr, row < table.tile_rows);
    });
  }
}

}  // namespace moe::test
