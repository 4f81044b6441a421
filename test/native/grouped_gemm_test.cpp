// Grouped products against float64: the shapes of a layer and its gradients, with every remainder of tiles,
// blocks and bfloat16 pairs, ragged and empty groups, gathers, matrices side by side and further segments of
// k.
#include "support/expect.h"
#include "support/grouped_problem.h"

namespace moe::test {
namespace {

// A thousand float32 roundings of a sum of unit terms.
constexpr double kBound = 3e-6;

// The ways a layer multiplies, small: each test varies some dimension.
struct NamedShape {
  const char* name;
  GroupedShape shape;
};

std::vector<NamedShape> layer_shapes() {
  const std::vector<int32_t> counts = {5, 0, 9, 1};
  const SegmentShape by_k = {.k = 10}, by_columns = {.k = 10, .b_k_contiguous = false};
  // The low-rank pair beside a weight, and beside one of two.
  const SegmentShape pair = {.k = 3}, gate_pair = {.k = 3, .absent = 1}, up_pair = {.k = 2, .absent = 0};
  const SegmentShape back = {.k = 3, .b_k_contiguous = false};
  return {{"forward", {.counts = counts, .n = 7, .segments = {by_k}, .forward = true}},
          {"forward, transposed", {.counts = counts, .n = 7, .segments = {by_columns}, .forward = true}},
          {"forward, gathered, gate and up",
           {.counts = counts,
            .n = 7,
            .segments = {by_k},
            .side_by_side = true,
            .gathered = true,
            .forward = true}},
          {"forward with a pair", {.counts = counts, .n = 7, .segments = {by_k, pair}, .forward = true}},
          {"gate and up, transposed, each with a pair",
           {.counts = counts,
            .n = 7,
            .segments = {by_columns, gate_pair, up_pair},
            .side_by_side = true,
            .forward = true}},
          {"dgrad of gate and up", {.counts = counts, .n = 7, .segments = {by_columns, by_columns}}},
          {"dgrad of gate and up, transposed, with pairs",
           {.counts = counts, .n = 7, .segments = {by_k, by_k, back, back}}},
          {"wgrad", {.ragged = Ragged::k, .counts = counts, .m = 5, .n = 7}},
          {"wgrad, streamed", {.ragged = Ragged::k, .counts = counts, .m = 5, .n = 7, .streamed = true}},
          {"wgrad, gathered", {.ragged = Ragged::k, .counts = counts, .m = 5, .n = 7, .gathered = true}}};
}

void check_product(const GroupedShape& shape, Random& random) {
  const GroupedProblem problem(shape, random);
  const std::vector<float> c = problem.run();
  RelativeError error;
  for (int64_t row = 0; row < problem.rows(); ++row) {
    for (int64_t column = 0; column < problem.columns(); ++column)
      error.add(c[static_cast<size_t>(row * problem.columns() + column)], problem.exactly(row, column));
  }
  CHECK_MESSAGE(error.within(kBound), "relative error ", error.value());
}

// Every combination that has kernels of its own: pairs, exact, and each source of float panels. Pairs of
// float32 may stand beside narrower weights.
void check_dtypes(GroupedShape shape, Random& random) {
  struct Operands {
    DType a, b;
  };
  struct Segments {
    Operands first, further;
  };
  constexpr Operands kFloat32 = {DType::float32, DType::float32},
                     kBfloat16 = {DType::bfloat16, DType::bfloat16},
                     kFloat16 = {DType::float16, DType::float16},
                     kNarrowByWide = {DType::bfloat16, DType::float32},
                     kWideByNarrow = {DType::float32, DType::bfloat16};
  constexpr Segments kSegments[] = {{kFloat32, kFloat32},           {kBfloat16, kBfloat16},
                                    {kFloat16, kFloat16},           {kBfloat16, kFloat32},
                                    {kNarrowByWide, kWideByNarrow}, {kWideByNarrow, kBfloat16}};
  for (const Segments& segments : kSegments) {
    // Not by name: lambdas of INFO could not see the parts of a binding.
    const Operands &first = segments.first, &further = segments.further;
    INFO(std::string(name_of(first.a)), " times ", std::string(name_of(first.b)));
    INFO("further: ", std::string(name_of(further.a)), " times ", std::string(name_of(further.b)));
    for (SegmentShape& segment : shape.segments) {
      const Operands& operands = &segment == shape.segments.data() ? first : further;
      segment.a = operands.a;
      segment.b = operands.b;
    }
    check_product(shape, random);
  }
}

template <class Body>
void for_each_shape(Body body) {
  for (const NamedShape& named : layer_shapes()) {
    INFO(std::string(named.name));
    body(named.shape);
  }
}

bool is_ragged_k(const GroupedShape& shape) {
  return shape.ragged == Ragged::k;
}

}  // namespace

TEST_SUITE("grouped_gemm") {
  TEST_CASE("columns: remainders of registers, tiles and blocks") {
    Random random(11);
    const int64_t w = cpu::kernels().width;
    for_each_shape([&](GroupedShape shape) {
      for (int64_t n :
           {int64_t{1}, w - 1, w, w + 1, 2 * w - 1, 2 * w, 2 * w + 1, 3 * w, 8 * w + 1, 16 * w, 16 * w + 3}) {
        CAPTURE(n);
        shape.n = n;
        check_dtypes(shape, random);
      }
    });
  }

  TEST_CASE("rows: remainders of tiles and blocks, ragged and empty groups") {
    Random random(12);
    const int most = cpu::kernels().tile_rows, block = 12 * most;
    const std::vector<std::vector<int32_t>> groups = {{0, 0},
                                                      {1},
                                                      {0, most - 1, most, most + 1, 0},
                                                      {2 * most + 1, 1, 3},
                                                      {block, block + 1},
                                                      {0, 2 * block + most + 1, 0}};
    for_each_shape([&](GroupedShape shape) {
      for (const std::vector<int32_t>& counts : groups) {
        CAPTURE(counts.back());
        // Where k is ragged, the rows of C are those of the weight's gradient.
        if (is_ragged_k(shape)) shape.m = std::max(1, *std::max_element(counts.begin(), counts.end()));
        if (!is_ragged_k(shape)) shape.counts = counts;
        check_dtypes(shape, random);
      }
    });
  }

  TEST_CASE("steps: odd ones, and more than a block holds") {
    Random random(13);
    for_each_shape([&](GroupedShape shape) {
      for (int k : {1, 2, 3, 17, 511, 512, 513, 1023, 1024, 1025, 2049}) {
        CAPTURE(k);
        if (is_ragged_k(shape)) shape.counts = {0, k, 1, k / 2};
        for (SegmentShape& segment : shape.segments) segment.k = k;
        check_dtypes(shape, random);
      }
    });
  }

  TEST_CASE("a segment without steps adds nothing, wherever it stands") {
    Random random(18);
    const SegmentShape none = {.k = 0};
    const SegmentShape some = {.k = 5};
    for (const std::vector<SegmentShape>& segments :
         {std::vector{none, some}, std::vector{some, none}, std::vector{some, none, some}}) {
      CAPTURE(segments.size());
      check_dtypes({.counts = {5, 0, 9}, .n = 7, .segments = segments}, random);
    }
  }

  TEST_CASE("no steps give zeros, no columns give nothing") {
    Random random(14);
    const int64_t w = cpu::kernels().width;
    for_each_shape([&](const GroupedShape& shape) {
      for (int64_t n : {int64_t{0}, int64_t{1}, w + 1, 2 * w + 1, 16 * w + 3}) {
        CAPTURE(n);
        GroupedShape full = shape;
        full.n = n;
        GroupedShape empty = full;
        for (SegmentShape& segment : empty.segments) segment.k = 0;
        if (is_ragged_k(shape)) empty.counts = {0, 0, 0};
        // What an earlier product left in the scratch must not show.
        check_product(full, random);
        check_dtypes(empty, random);
      }
    });
  }

  TEST_CASE("a large product on several threads") {
    Random random(15);
    for_each_shape([&](GroupedShape shape) {
      shape.counts =
          is_ragged_k(shape) ? std::vector<int32_t>{70, 0, 81} : std::vector<int32_t>{190, 0, 3, 61};
      shape.m = 97;
      shape.n = 85;
      for (SegmentShape& segment : shape.segments) segment.k = 66;
      check_dtypes(shape, random);
    });
  }
}

}  // namespace moe::test
