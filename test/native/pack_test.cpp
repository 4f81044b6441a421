// Packing: every lane and step of a panel is the source's and lies where its chain is, the rest is zero, and
// nothing else is written.
#include <algorithm>
#include <numeric>
#include <vector>

#include "support/chains.h"
#include "support/expect.h"

namespace moe::test {
namespace {

using cpu::PanelKind;

struct Panel {
  PanelKind kind;
  DType source;
  bool k_contiguous;
  int64_t offset;
  int lanes, pitch;
  int64_t steps;
  cpu::Chains chains = {};
};

// Stored rows in no order of their own. Elements before `offset` are NaN; the last row ends where reading
// faults.
struct Stored {
  Stored(const Panel& panel, Random& random)
      : count(panel.k_contiguous ? panel.lanes : panel.steps),
        length(panel.k_contiguous ? panel.steps : panel.lanes),
        stride(panel.offset + length),
        offset(panel.offset),
        array(panel.source, count * stride),
        order(static_cast<size_t>(count)) {
    std::normal_distribution<float> normal;
    for (int64_t row = 0; row < count; ++row) {
      for (int64_t i = 0; i < length; ++i) array.set(row * stride + offset + i, normal(random));
    }
    std::iota(order.begin(), order.end(), int64_t{0});
    std::shuffle(order.begin(), order.end(), random);
    for (int64_t row : order) rows.push_back(array.at(row * stride));
  }

  int64_t index(int64_t row, int64_t i) const {
    return order[static_cast<size_t>(row)] * stride + offset + i;
  }

  int64_t count, length, stride, offset;
  Array array;
  std::vector<int64_t> order;
  std::vector<const void*> rows;
};

// The 32 bits that a unit of a lane must hold.
uint32_t wanted_unit(const Panel& panel, const Stored& stored, int64_t unit, int lane) {
  const int per_unit = steps_per_unit(panel.kind);
  uint32_t bits = 0;
  for (int half = 0; half < per_unit; ++half) {
    const int64_t step = unit * per_unit + half;
    if (lane >= panel.lanes || step >= panel.steps) continue;
    const int64_t i = panel.k_contiguous ? stored.index(lane, step) : stored.index(step, lane);
    if (panel.kind == PanelKind::bfloat16_pairs) {
      bits |= stored.array.bits(i) << (16 * half);
    } else {
      const auto value = static_cast<float>(stored.array[i]);
      std::memcpy(&bits, &value, sizeof bits);
    }
  }
  return bits;
}

bool packs_exactly(const cpu::Kernels& table, const Panel& panel, Random& random) {
  const Stored stored(panel, random);
  const int64_t given = (panel.steps + steps_per_unit(panel.kind) - 1) / steps_per_unit(panel.kind);
  const int64_t units = panel.chains.length(given) * panel.chains.count;
  const int64_t panels = panel.lanes > panel.pitch ? cpu::kSlivers : 1;
  Array out(DType::float32, panels * units * panel.pitch);
  const auto pack =
      (panel.k_contiguous
           ? table.pack_k_contiguous
           : table.pack_lanes_contiguous)[static_cast<size_t>(panel.kind)][static_cast<size_t>(panel.source)];
  pack({.rows = stored.rows.data(),
        .offset = panel.offset,
        .lanes = panel.lanes,
        .pitch = panel.pitch,
        .steps = panel.steps,
        .panel = out.f32(),
        .chains = panel.chains});
  for (int64_t unit = 0; unit < units; ++unit) {
    for (int lane = 0; lane < panels * panel.pitch; ++lane) {
      const int64_t at = position_of(panel.chains, unit, given);
      const int64_t i = (lane / panel.pitch * units + at) * panel.pitch + lane % panel.pitch;
      if (out.bits(i) != wanted_unit(panel, stored, unit, lane)) return false;
    }
  }
  return out.guard_untouched();
}

// A row's words of all chains lie side by side.
bool packs_words(const cpu::Kernels& table, const Panel& panel, Random& random) {
  const Stored stored(panel, random);
  const auto& [count, together] = panel.chains;
  const int64_t units = panel.chains.length(panel.steps) * count;
  Array out(DType::float32, units * panel.pitch);
  table.pack_words[static_cast<size_t>(panel.source)]({.rows = stored.rows.data(),
                                                       .offset = panel.offset,
                                                       .lanes = panel.lanes,
                                                       .pitch = panel.pitch,
                                                       .steps = panel.steps,
                                                       .panel = out.f32(),
                                                       .chains = panel.chains});
  for (int64_t unit = 0; unit < units; ++unit) {
    const int64_t word = unit / together, turn = word / count, of_word = unit % together;
    for (int row = 0; row < panel.pitch; ++row) {
      const int64_t i = ((turn * together + of_word) * panel.pitch + row) * count + word % count;
      if (out.bits(i) != wanted_unit(panel, stored, unit, row)) return false;
    }
  }
  return out.guard_untouched();
}

std::vector<int> pitches_of(const cpu::Kernels& table) {
  std::vector<int> pitches(static_cast<size_t>(table.tile_rows));
  std::iota(pitches.begin(), pitches.end(), 1);
  if (table.width > table.tile_rows) pitches.push_back(table.width);
  return pitches;
}

void check_packing(const cpu::Kernels& table, PanelKind kind, DType source, bool k_contiguous,
                   const cpu::Chains& chains = {}) {
  Random random(1);
  const int64_t w = table.width;
  const auto check = [&](int lanes, int pitch) {
    for (int64_t steps :
         {int64_t{1}, int64_t{2}, int64_t{3}, w - 1, w, w + 1, 2 * w - 1, 2 * w, 2 * w + 1, 4 * w + 3}) {
      const Panel panel = {kind, source, k_contiguous, steps % 4, lanes, pitch, steps, chains};
      CAPTURE(pitch);
      CAPTURE(lanes);
      CAPTURE(steps);
      if (!packs_exactly(table, panel, random)) FAIL_CHECK("the panel differs");
    }
  };
  for (int pitch : pitches_of(table)) {
    for (int lanes = 0; lanes <= pitch; ++lanes) check(lanes, pitch);
  }
  if (!k_contiguous) check(cpu::kSlivers * table.width, table.width);
}

}  // namespace

TEST_SUITE("kernels") {
  TEST_CASE("packing copies lanes and steps exactly") {
    for_each_table([](const cpu::Kernels& table) {
      for (bool k_contiguous : {true, false}) {
        CAPTURE(k_contiguous);
        for (DType source : kFloatDTypes) {
          INFO("floats from ", std::string(name_of(source)));
          check_packing(table, PanelKind::floats, source, k_contiguous);
          if (!k_contiguous) continue;
          for (int together : {1, 2}) {
            CAPTURE(together);
            check_packing(table, PanelKind::floats, source, true, {cpu::kMostChains, together});
          }
        }
        const auto pairs = static_cast<size_t>(PanelKind::bfloat16_pairs);
        if (table.tile_product[pairs][0] == nullptr) continue;
        INFO("pairs");
        check_packing(table, PanelKind::bfloat16_pairs, DType::bfloat16, k_contiguous);
      }
    });
  }

  TEST_CASE("packing copies the words of few rows exactly") {
    for_each_table([](const cpu::Kernels& table) {
      Random random(5);
      const int64_t w = table.width;
      for (DType source : kFloatDTypes) {
        INFO(std::string(name_of(source)));
        for (int together : {1, 2}) {
          CAPTURE(together);
          for (int rows = 1; rows <= table.tile_rows; ++rows) {
            for (int pitch : {rows, rows + 1, rows + 5}) {
              for (int64_t steps : {int64_t{1}, w - 1, w, w + 1, 2 * w - 1, 2 * w, 4 * w + 3}) {
                const cpu::Chains chains = {cpu::kMostChains, together};
                const Panel panel = {PanelKind::floats, source, true, steps % 4, rows, pitch, steps, chains};
                if (!packs_words(table, panel, random)) FAIL_CHECK(rows, " rows of ", steps, " differ");
              }
            }
          }
        }
      }
    });
  }
}

}  // namespace moe::test
