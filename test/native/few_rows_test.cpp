// Products of few rows: the bits of the same columns packed and multiplied as a tile, in their own sliver of
// C and nowhere else, from stored rows that end where reading faults.
#include <cstring>
#include <vector>

#include "support/expect.h"

namespace moe::test {
namespace {

using cpu::PanelKind;

struct FewRowsCase {
  PanelKind kind;
  DType source;
  int rows, lanes;
  int64_t steps;
  bool accumulate;
};

// The operands of one product, and both ways to compute it.
class Problem {
 public:
  Problem(const cpu::Kernels& table, const FewRowsCase& given, Random& random)
      : table_(table),
        case_(given),
        units_((given.steps + steps_per_unit(given.kind) - 1) / steps_per_unit(given.kind)),
        pitch_(cpu::kSlivers * table.width),
        b_(given.source, given.lanes * (kOffset + given.steps), random),
        a_(panel_dtype(), units_ * given.rows * steps_per_unit(given.kind), random),
        before_(DType::float32, given.rows * pitch_, random) {
    for (int64_t lane = 0; lane < given.lanes; ++lane)
      stored_.push_back(b_.at(lane * (kOffset + given.steps)));
    // A unit past an odd end has nothing in its second half.
    if (given.steps % steps_per_unit(given.kind) != 0) {
      for (int64_t row = 0; row < given.rows; ++row) a_.set(((units_ - 1) * given.rows + row) * 2 + 1, 0);
    }
  }

  // Into one sliver of C, or false where what lies beside it was written.
  bool has_bits_of_tile(int sliver) {
    Array c(DType::float32, case_.rows * pitch_);
    std::memcpy(c.at(0), before_.at(0), bytes_of_c());
    cpu::Ahead ahead = {.row = stored_.data(), .begin = 0, .end = 1 << 20, .at = 0, .lines = 1 << 14};
    table_.few_rows_product[kind()][static_cast<size_t>(case_.source)][case_.rows - 1](
        {.rows = stored_.data(),
         .offset = kOffset,
         .lanes = case_.lanes,
         .steps = case_.steps,
         .a = a_.f32(),
         .c = c.f32() + sliver * table_.width,
         .accumulate = case_.accumulate,
         .ahead = {.of = &ahead, .lines = ahead.lines}});
    const std::vector<float> tile = multiply_as_tile(sliver);
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
  size_t bytes_of_c() const { return static_cast<size_t>(case_.rows * pitch_) * sizeof(float); }

  std::vector<float> multiply_as_tile(int sliver) {
    Array panel(DType::float32, units_ * table_.width + table_.width - 1),
        zeros(DType::float32, units_ * table_.width);
    std::memset(zeros.at(0), 0, static_cast<size_t>(zeros.size()) * sizeof(float));
    table_.pack_k_contiguous[kind()][static_cast<size_t>(case_.source)]({.rows = stored_.data(),
                                                                         .offset = kOffset,
                                                                         .lanes = case_.lanes,
                                                                         .pitch = table_.width,
                                                                         .steps = case_.steps,
                                                                         .panel = panel.f32()});
    std::vector<float> c(static_cast<size_t>(case_.rows * pitch_));
    std::memcpy(c.data(), before_.at(0), bytes_of_c());
    table_.tile_product[kind()][case_.rows - 1]({.units = units_,
                                                 .a = a_.f32(),
                                                 .b0 = sliver == 0 ? panel.f32() : zeros.f32(),
                                                 .b1 = sliver == 0 ? zeros.f32() : panel.f32(),
                                                 .c = c.data(),
                                                 .accumulate = case_.accumulate});
    return c;
  }

  const cpu::Kernels& table_;
  const FewRowsCase case_;
  const int64_t units_, pitch_;
  Array b_, a_, before_;
  std::vector<const void*> stored_;
};

void check(const cpu::Kernels& table, PanelKind kind, DType source) {
  Random random(3);
  const int64_t block = table.width * steps_per_unit(kind);
  for (int rows = 1; rows <= table.tile_rows; ++rows) {
    for (int lanes : {1, table.width - 1, table.width}) {
      for (int64_t steps : {int64_t{1}, block - 1, block, block + 1, 3 * block, 3 * block + 2}) {
        for (bool accumulate : {false, true}) {
          CAPTURE(rows);
          CAPTURE(lanes);
          CAPTURE(steps);
          CAPTURE(accumulate);
          Problem problem(table,
                          {.kind = kind,
                           .source = source,
                           .rows = rows,
                           .lanes = lanes,
                           .steps = steps,
                           .accumulate = accumulate},
                          random);
          for (int sliver = 0; sliver < cpu::kSlivers; ++sliver)
            if (!problem.has_bits_of_tile(sliver)) FAIL_CHECK("the bits differ in sliver ", sliver);
        }
      }
    }
  }
}

}  // namespace

TEST_SUITE("kernels") {
  TEST_CASE("few rows have the bits of packed tiles") {
    for_each_table([](const cpu::Kernels& table) {
      for (DType source : kFloatDTypes) {
        INFO("floats from ", std::string(name_of(source)));
        check(table, PanelKind::floats, source);
      }
      if (table.tile_product[static_cast<size_t>(PanelKind::bfloat16_pairs)][0] == nullptr) return;
      INFO("pairs");
      check(table, PanelKind::bfloat16_pairs, DType::bfloat16);
    });
  }
}

}  // namespace moe::test
