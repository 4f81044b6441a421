// Grouped products give the same bits for every thread count and whatever other rows share the batch, and in
// float32 those of chains of multiply-adds.
#include <cstring>

#include "support/expect.h"
#include "support/grouped_problem.h"
#include "support/threads.h"

namespace moe::test {
namespace {

// Large enough for several threads and blocks of k, odd everywhere.
std::vector<GroupedShape> large_shapes(DType dtype) {
  const std::vector<int32_t> counts = {45, 0, 203, 1};
  const auto segment = [&](int64_t k, bool b_k_contiguous) {
    return SegmentShape{.k = k, .a = dtype, .b = dtype, .b_k_contiguous = b_k_contiguous};
  };
  SegmentShape gate_pair = segment(17, true);
  gate_pair.absent = 1;
  return {
      {.counts = counts,
       .n = 37,
       .segments = {segment(1029, true), gate_pair},
       .side_by_side = true,
       .gathered = true,
       .forward = true},
      {.counts = counts, .n = 67, .segments = {segment(1031, true)}, .forward = true},
      {.counts = counts, .n = 67, .segments = {segment(1029, false)}, .forward = true},
      {.counts = counts, .n = 67, .segments = {segment(1031, true)}},
      {.counts = counts, .n = 67, .segments = {segment(515, false), segment(515, false), segment(9, true)}},
      {.ragged = Ragged::k,
       .counts = {3, 0, 1031},
       .m = 31,
       .n = 67,
       .segments = {segment(0, false)},
       .gathered = true,
       .streamed = true}};
}

bool same_bits(const std::vector<float>& left, const std::vector<float>& right) {
  return left.size() == right.size() &&
         std::memcmp(left.data(), right.data(), left.size() * sizeof(float)) == 0;
}

template <class Body>
void for_each_problem(Body body) {
  Random random(16);
  for (DType dtype : kFloatDTypes) {
    INFO(std::string(name_of(dtype)));
    for (const GroupedShape& shape : large_shapes(dtype)) {
      CAPTURE(shape.segments.size());
      GroupedProblem problem(shape, random);
      body(problem, shape);
    }
  }
}

}  // namespace

TEST_SUITE("grouped_gemm_bits") {
  TEST_CASE("the bits do not depend on threads") {
    for_each_problem([](const GroupedProblem& problem, const GroupedShape&) {
      const std::vector<float> alone = [&] {
        const Threads one(1);
        return problem.run();
      }();
      for (int count : {2, 3, 5}) {
        CAPTURE(count);
        const Threads several(count);
        for (int turn = 0; turn < 3; ++turn) CHECK(same_bits(problem.run(), alone));
      }
    });
  }

  TEST_CASE("a row's bits do not depend on the batch") {
    for_each_problem([](GroupedProblem& problem, const GroupedShape& shape) {
      if (shape.ragged == Ragged::k) return;
      const std::vector<float> whole = problem.run();
      const auto kept = [](int64_t row) { return row % 5 == 1 || row == 0; };
      const auto columns = static_cast<size_t>(problem.columns());
      std::vector<float> want;
      for (int64_t row = 0; row < problem.rows(); ++row) {
        if (!kept(row)) continue;
        const auto first = whole.begin() + row * problem.columns();
        want.insert(want.end(), first, first + problem.columns());
      }
      REQUIRE(want.size() > columns);
      CHECK(same_bits(problem.keep_rows(kept).run(), want));
    });
  }

  TEST_CASE("each float element is the sum of its chains of multiply-adds") {
    Random random(17);
    for (DType dtype : kFloatDTypes) {
      INFO(std::string(name_of(dtype)));
      for (GroupedShape shape : large_shapes(dtype)) {
        CAPTURE(shape.segments.size());
        shape.exact = true;
        const GroupedProblem problem(shape, random);
        const std::vector<float> c = problem.run();
        // Some rows of every tile.
        for (int64_t row = problem.rows() - 1; row >= 0; row -= 5) {
          std::vector<float> want;
          for (int64_t column = 0; column < problem.columns(); ++column)
            want.push_back(problem.chained(row, column));
          const auto first = c.begin() + row * problem.columns();
          CHECK(same_bits({first, first + problem.columns()}, want));
        }
      }
    }
  }
}

}  // namespace moe::test
