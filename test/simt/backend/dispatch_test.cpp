// The permutation, and rows moved along it.
#include <doctest.h>

#include "ops/router.h"
#include "support/device.h"

namespace moe::test {
namespace {

struct Case {
  const char* name;
  int64_t T, H, E, K, R;
  int identity = 0, rows_per_expert = 0;
  // Expert of slot i, and its fate.
  int32_t (*expert)(int64_t slot);
  SlotFate (*fate)(int64_t slot) = nullptr;
};

SlotFate mixed_fates(int64_t slot) {
  return static_cast<SlotFate>(slot * 7 % 11 < 7 ? 0 : slot % 4);
}

const Case kCases[] = {
    {.name = "odd shape",
     .T = 37,
     .H = 33,
     .E = 5,
     .K = 3,
     .R = 111,
     .expert = [](int64_t s) { return int32_t(s * s % 5); }},
    {.name = "all on one", .T = 300, .H = 8, .E = 4, .K = 1, .R = 300, .expert = [](int64_t) { return 2; }},
    {.name = "no token", .T = 0, .H = 4, .E = 3, .K = 2, .R = 0, .expert = [](int64_t) { return 0; }},
    {.name = "one token, all experts",
     .T = 1,
     .H = 65,
     .E = 6,
     .K = 6,
     .R = 6,
     .expert = [](int64_t s) { return int32_t(5 - s); }},
    {.name = "more slots than a warp has lanes",
     .T = 5,
     .H = 9,
     .E = 50,
     .K = 45,
     .R = 225,
     .expert = [](int64_t s) { return int32_t(s % 50); }},
    {.name = "many chunks",
     .T = 1500,
     .H = 2,
     .E = 67,
     .K = 2,
     .R = 3000,
     .expert = [](int64_t s) { return int32_t(s * 2654435761u % 67); }},
    {.name = "identity experts and fates",
     .T = 90,
     .H = 40,
     .E = 6,
     .K = 2,
     .R = 180,
     .identity = 2,
     .expert = [](int64_t s) { return int32_t(s * 5 % 8); },
     .fate = mixed_fates},
    {.name = "rows kept for each expert",
     .T = 20,
     .H = 16,
     .E = 4,
     .K = 2,
     .R = 60,
     .rows_per_expert = 14,
     .expert = [](int64_t s) { return int32_t(s * 3 % 4); },
     .fate = mixed_fates},
};

struct Permutation {
  Tensor offsets, row_slot, slot_row;
};

Permutation dispatch(Device& d, const Case& c) {
  Ints indices, fates;
  for (int64_t slot = 0; slot < c.T * c.K; ++slot) {
    indices.push_back(c.expert(slot));
    if (c.fate != nullptr) fates.push_back(static_cast<int32_t>(c.fate(slot)));
  }
  const Permutation p = {d.out("offsets", DType::int32, {c.E + 1}), d.out("rowSlot", DType::int32, {c.R}),
                         d.out("slotRow", DType::int32, {c.T, c.K})};
  d.run(Dispatch{.indices = d.ints({c.T, c.K}, indices),
                 .dropped = c.fate != nullptr ? d.ints({c.T, c.K}, fates) : Tensor{},
                 .identity_experts = c.identity,
                 .rows_per_expert = c.rows_per_expert,
                 .offsets = p.offsets,
                 .row_slot = p.row_slot,
                 .slot_row = p.slot_row});
  return p;
}

}  // namespace

TEST_CASE("dispatch, gather, combine and their gradients") {
  for (const Case& c : kCases) {
    INFO(std::string(c.name));
    for (DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
      for (bool weighted : {true, false}) {
        compare([&](Device& d) {
          const Permutation p = dispatch(d, c);
          const Tensor x = d.random(dtype, {c.T, c.H}), dy = d.random(dtype, {c.T, c.H});
          const Tensor rows = d.out("rows", dtype, {c.R, c.H}, Match::exactly);
          d.run(Gather{.x = x, .row_slot = p.row_slot, .top_k = static_cast<int>(c.K), .rows = rows});
          const Tensor weights = weighted ? d.random(DType::float32, {c.T, c.K}) : Tensor{};
          const Tensor own = weighted ? x : Tensor{};
          d.run(Combine{.rows = rows,
                        .slot_row = p.slot_row,
                        .weights = weights,
                        .x = own,
                        .y = weighted ? d.sum("y", dtype, {c.T, c.H}) : d.out("y", dtype, {c.T, c.H}),
                        .accumulate = weighted});
          d.run(CombineBackward{.dy = dy,
                                .row_slot = p.row_slot,
                                .slot_row = p.slot_row,
                                .rows = rows,
                                .weights = weights,
                                .x = own,
                                .d_rows = d.out("dRows", dtype, {c.R, c.H}),
                                .d_weights = d.out("dWeights", DType::float32, {c.T, c.K}),
                                .dx = weighted ? d.out("dx", dtype, {c.T, c.H}) : Tensor{}});
        });
      }
    }
  }
}

TEST_CASE("what lies outside is reported, and nothing touched there") {
  const auto bad_dispatch = [](const Ints& indices, int64_t R, int rows_per_expert) {
    return failure_of([&](Device& d) {
      d.run(Dispatch{.indices = d.ints({2, 2}, indices),
                     .rows_per_expert = rows_per_expert,
                     .offsets = d.out("offsets", DType::int32, {4}),
                     .row_slot = d.out("rowSlot", DType::int32, {R}),
                     .slot_row = d.out("slotRow", DType::int32, {2, 2})});
    });
  };
  CHECK_EQ(bad_dispatch({0, 1, 2, 3}, 4, 0),
           "ERR_INDEX_RANGE dispatch: indices: expected values from 0 to 2, got 3");
  CHECK_EQ(bad_dispatch({0, 1, -1, 2}, 4, 0),
           "ERR_INDEX_RANGE dispatch: indices: expected values from 0 to 2, got -1");
  CHECK_EQ(bad_dispatch({0, 1, 1, 2}, 3, 0),
           "ERR_INDEX_RANGE dispatch: rows: expected at most 3 routed rows, got 4");
  CHECK_EQ(bad_dispatch({0, 1, 1, 2}, 6, 1),
           "ERR_INDEX_RANGE dispatch: rowsPerExpert: expected at most 1 routed rows, got 2");
  CHECK_EQ(failure_of([](Device& d) {
             d.run(Gather{.x = d.random(DType::float32, {2, 3}),
                          .row_slot = d.ints({2}, {1, 4}),
                          .top_k = 2,
                          .rows = d.out("rows", DType::float32, {2, 3})});
           }),
           "ERR_INDEX_RANGE gather: rowSlot: expected values from -1 to 3, got 4");
  CHECK_EQ(failure_of([](Device& d) {
             d.run(Combine{.rows = d.random(DType::float32, {2, 3}),
                           .slot_row = d.ints({1, 3}, {0, 2, -2}),
                           .y = d.out("y", DType::float32, {1, 3})});
           }),
           "ERR_INDEX_RANGE combine: slotRow: expected values from -2 to 1, got 2");
}

}  // namespace moe::test
