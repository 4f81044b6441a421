// Products that read B as it is stored, of few rows and with rows as lanes or as quads of them: the bits of
// the same columns packed and multiplied as tiles, in their own sliver of C and nowhere else, from stored
// rows that end where reading faults.
#include <algorithm>
#include <cstring>
#include <vector>

#include "support/chains.h"
#include "support/expect.h"

namespace moe::test {
namespace {

using cpu::PanelKind;

enum class Form : uint8_t { few_rows, row_lanes, row_quads };

struct StoredCase {
  PanelKind kind;
  DType source;
  Form form;
  int rows, lanes;
  int64_t steps;
  bool accumulate;
};

// The operands of one product, and both ways to compute it.
class Problem {
 public:
  Problem(const cpu::Kernels& table, const StoredCase& given, Random& random)
      : table_(table),
        case_(given),
        chains_(given.form == Form::row_lanes ? cpu::Chains{} : cpu::chains_of(given.kind, given.source)),
        units_((given.steps + steps_per_unit(given.kind) - 1) / steps_per_unit(given.kind)),
        pitch_(cpu::kSlivers * table.width),
        panel_rows_(given.form == Form::row_lanes   ? eights() * cpu::kRowLanes
                    : given.form == Form::row_quads ? table.width / cpu::kMostChains
                                                    : given.rows),
        a_pitch_((given.rows + panel_rows_ - 1) / panel_rows_ * panel_rows_),
        b_(given.source, given.lanes * (kOffset + given.steps), random),
        a_(panel_dtype(), units_ * a_pitch_ * steps_per_unit(given.kind), random),
        before_(DType::float32, given.rows * pitch_, random) {
    for (int64_t lane = 0; lane < given.lanes; ++lane)
      stored_.push_back(b_.at(lane * (kOffset + given.steps)));
    // A unit past an odd end has nothing in its second half.
    if (given.steps % steps_per_unit(given.kind) != 0) {
      for (int64_t row = 0; row < a_pitch_; ++row) a_.set(((units_ - 1) * a_pitch_ + row) * 2 + 1, 0);
    }
  }

  // Into one sliver of C, or false where what lies beside it was written.
  bool has_bits_of_tiles(int sliver, bool pages) {
    Array c(DType::float32, case_.rows * pitch_);
    std::memcpy(c.at(0), before_.at(0), bytes_of_c());
    // The same rows once more.
    const auto size = static_cast<int64_t>(bytes_of(case_.source));
    const int64_t begin = kOffset * size, bytes = case_.steps * size;
    const int64_t lines = (bytes + cpu::kCacheLine - 1) / cpu::kCacheLine;
    cpu::Ahead ahead = {.row = stored_.data(),
                        .begin = begin,
                        .end = begin + bytes,
                        .at = begin,
                        .lines = lines * case_.lanes,
                        .pages = pages};
    const std::vector<float> a = as_multiplied();
    multiply({.rows = stored_.data(),
              .offset = kOffset,
              .lanes = case_.lanes,
              .steps = case_.steps,
              .a = a.data(),
              .c = c.f32() + sliver * table_.width,
              .accumulate = case_.accumulate,
              .ahead = {.of = &ahead, .lines = ahead.lines}});
    const std::vector<float> tile = multiply_as_tiles(sliver);
    for (int64_t row = 0; row < case_.rows; ++row) {
      for (int64_t column = 0; column < pitch_; ++column) {
        const int64_t i = row * pitch_ + column, lane = column - sliver * table_.width;
        if (lane >= case_.lanes && lane < table_.width) continue;
        const bool computed = lane >= 0 && lane < case_.lanes;
        const void* want = computed ? &tile[static_cast<size_t>(i)] : before_.at(i);
        if (std::memcmp(c.at(i), want, sizeof(float)) != 0) return false;
      }
    }
    return c.guard_untouched();
  }

 private:
  static constexpr int64_t kOffset = 3;

  DType panel_dtype() const {
    return case_.kind == PanelKind::bfloat16_pairs ? DType::bfloat16 : DType::float32;
  }
  size_t kind() const { return static_cast<size_t>(case_.kind); }
  size_t source() const { return static_cast<size_t>(case_.source); }
  int eights() const { return (case_.rows + cpu::kRowLanes - 1) / cpu::kRowLanes; }
  size_t bytes_of_c() const { return static_cast<size_t>(case_.rows * pitch_) * sizeof(float); }

  void multiply(const cpu::FewRowsArgs& args) const {
    switch (case_.form) {
      case Form::few_rows:
        return table_.few_rows_product[kind()][source()][case_.rows - 1](args);
      case Form::row_lanes:
        return table_.row_lanes_product[kind()][source()][eights() - 1]({.stored = args, .rows = case_.rows});
      case Form::row_quads:
        return table_.row_quads_product[source()]({.stored = args, .rows = case_.rows});
    }
  }

  // A as the product has it, a panel after the other: of several chains, a word of each side by side.
  std::vector<float> as_multiplied() {
    const auto& [count, together] = chains_;
    const int64_t padded = chains_.length(units_) * count;
    std::vector<float> a(static_cast<size_t>(padded * a_pitch_), 0.0f);
    for (int64_t unit = 0; unit < units_; ++unit) {
      const int64_t turn = unit / (int64_t{count} * together), of_word = unit % together;
      for (int64_t row = 0; row < a_pitch_; ++row) {
        const int64_t in_panel = ((turn * together + of_word) * panel_rows_ + row % panel_rows_) * count;
        const int64_t i = row / panel_rows_ * panel_rows_ * padded + in_panel + chain_of(chains_, unit);
        std::memcpy(&a[static_cast<size_t>(i)], a_.f32() + unit * a_pitch_ + row, sizeof(float));
      }
    }
    return a;
  }

  // Each row a tile of its own, whose bits are those of every tile.
  std::vector<float> multiply_as_tiles(int sliver) {
    std::vector<float> c(static_cast<size_t>(case_.rows * pitch_));
    std::memcpy(c.data(), before_.at(0), bytes_of_c());
    const int64_t run = chains_.count > 1 ? cpu::kChainedUnits : case_.steps;
    for (int64_t begin = 0; begin < case_.steps; begin += run)
      add_run(sliver, begin, std::min(run, case_.steps - begin), c);
    return c;
  }
  void add_run(int sliver, int64_t begin, int64_t steps, std::vector<float>& c) {
    const int64_t units = (steps + steps_per_unit(case_.kind) - 1) / steps_per_unit(case_.kind);
    const int64_t length = chains_.length(units), padded = length * chains_.count;
    Array panel(DType::float32, padded * table_.width);
    const std::vector<float> zeros(static_cast<size_t>(padded * table_.width), 0.0f);
    table_.pack_k_contiguous[kind()][source()]({.rows = stored_.data(),
                                                .offset = kOffset + begin,
                                                .lanes = case_.lanes,
                                                .pitch = table_.width,
                                                .steps = steps,
                                                .panel = panel.f32(),
                                                .chains = chains_});
    std::vector<float> a(static_cast<size_t>(padded), 0.0f);
    const int64_t first = begin / steps_per_unit(case_.kind);
    for (int64_t row = 0; row < case_.rows; ++row) {
      for (int64_t unit = 0; unit < units; ++unit) {
        std::memcpy(&a[static_cast<size_t>(position_of(chains_, unit, units))],
                    a_.f32() + (first + unit) * a_pitch_ + row, sizeof(float));
      }
      table_.tile_product[kind()][0]({.units = length,
                                      .a = a.data(),
                                      .b0 = sliver == 0 ? panel.f32() : zeros.data(),
                                      .b1 = sliver == 0 ? zeros.data() : panel.f32(),
                                      .c = c.data() + row * pitch_,
                                      .accumulate = case_.accumulate || begin > 0,
                                      .chains = chains_.count});
    }
  }

  const cpu::Kernels& table_;
  const StoredCase case_;
  const cpu::Chains chains_;
  const int64_t units_, pitch_, panel_rows_, a_pitch_;
  Array b_, a_, before_;
  std::vector<const void*> stored_;
};

// `lane_counts` of B's columns, in every length of k that ends somewhere else in a block of it, and in one
// that is longer than the bytes before whose turn a line is asked for again.
void check(const cpu::Kernels& table, StoredCase given, std::vector<int> lane_counts, Random& random) {
  const int64_t block = 16 * steps_per_unit(given.kind), longest = cpu::kChainedUnits + block + 5;
  for (int lanes : lane_counts) {
    for (int64_t steps : {int64_t{1}, block - 1, block, block + 1, 3 * block, 9 * block + 2, longest}) {
      // Of half of the row counts: the longest takes as long as all others.
      if (steps == longest && given.rows % 4 > 1) continue;
      for (bool accumulate : {false, true}) {
        given.lanes = lanes;
        given.steps = steps;
        given.accumulate = accumulate;
        CAPTURE(given.rows);
        CAPTURE(lanes);
        CAPTURE(steps);
        CAPTURE(accumulate);
        Problem problem(table, given, random);
        for (int sliver = 0; sliver < cpu::kSlivers; ++sliver)
          if (!problem.has_bits_of_tiles(sliver, /*pages=*/sliver > 0))
            FAIL_CHECK("the bits differ in sliver ", sliver);
      }
    }
  }
}

void check_few_rows(const cpu::Kernels& table, PanelKind kind, DType source) {
  Random random(3);
  for (int rows = 1; rows <= table.tile_rows; ++rows) {
    const StoredCase given = {.kind = kind, .source = source, .form = Form::few_rows, .rows = rows};
    check(table, given, {1, table.width - 1, table.width}, random);
  }
}

void check_row_lanes(const cpu::Kernels& table, PanelKind kind, DType source) {
  Random random(4);
  if (table.row_lanes_product[static_cast<size_t>(kind)][static_cast<size_t>(source)][0] == nullptr) return;
  for (int eights = 1; eights <= cpu::kMaxRowEights; ++eights) {
    for (int missing : {0, 1, 7}) {
      const int rows = eights * cpu::kRowLanes - missing;
      const StoredCase given = {.kind = kind, .source = source, .form = Form::row_lanes, .rows = rows};
      check(table, given, {1, cpu::kRowLanes, cpu::kRowLanes + 1, table.width}, random);
    }
  }
}

void check_row_quads(const cpu::Kernels& table, PanelKind kind, DType source) {
  Random random(5);
  if (kind != PanelKind::floats || table.row_quads_product[static_cast<size_t>(source)] == nullptr) return;
  for (int rows : {1, 4, 7, 8, 13, 16, 22, 40, cpu::kMaxQuadRows - 1}) {
    const StoredCase given = {.kind = kind, .source = source, .form = Form::row_quads, .rows = rows};
    check(table, given, {1, 8, 9, table.width}, random);
  }
}

template <class Check>
void for_each_source(Check check_source) {
  for_each_table([&](const cpu::Kernels& table) {
    for (DType source : kFloatDTypes) {
      INFO("floats from ", std::string(name_of(source)));
      check_source(table, PanelKind::floats, source);
    }
    if (table.tile_product[static_cast<size_t>(PanelKind::bfloat16_pairs)][0] == nullptr) return;
    INFO("pairs");
    check_source(table, PanelKind::bfloat16_pairs, DType::bfloat16);
  });
}

}  // namespace

TEST_SUITE("kernels") {
  TEST_CASE("few rows have the bits of packed tiles") {
    for_each_source(check_few_rows);
  }

  TEST_CASE("rows as lanes have the bits of packed tiles") {
    for_each_source(check_row_lanes);
  }

  TEST_CASE("rows as quads have the bits of packed tiles") {
    for_each_source(check_row_quads);
  }

  TEST_CASE("rows are lanes wherever a register has halves, and quads where chains are several") {
    for_each_table([](const cpu::Kernels& table) {
      const bool has_halves = table.width == 2 * cpu::kRowLanes;
      CHECK_EQ(table.row_lanes_product[0][0][0] != nullptr, has_halves);
      for (DType source : kFloatDTypes) {
        const bool chained = cpu::chains_of(PanelKind::floats, source).count > 1;
        CHECK_EQ(table.row_quads_product[static_cast<size_t>(source)] != nullptr, has_halves && chained);
      }
    });
  }
}

}  // namespace moe::test
