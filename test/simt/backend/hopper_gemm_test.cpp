// The grouped product of compute capability 9.0 in each of its configurations: against a plain loop, and
// against each other to the bit, for a row's bits must not depend on how the product is cut up.
#include <algorithm>

#include "simt/control.h"
#include "support/products.h"

namespace moe::test {
namespace {

using cuda::HopperConfig;

// Every shape of tile; few stages and many, schedules of either kind, by turns.
template <class Visit>
void each_config(bool side_by_side, Visit visit) {
  const simt::Settings before = simt::settings();
  int stages = 2;
  for (int tile_m : {64, 128}) {
    for (int tile_n : {64, 128, 256}) {
      if (side_by_side && tile_n == 64) continue;
      const HopperConfig config = {.tile_m = tile_m, .tile_n = tile_n, .stages = stages};
      INFO(describe(config));
      visit(config);
      stages = stages == 4 ? 2 : stages + 1;
      ++simt::settings().seed;
    }
  }
  simt::settings() = before;
}

struct Case {
  const char* name;
  Ragged ragged = Ragged::m;
  std::vector<int32_t> offsets;
  int64_t R, m = 0, n;
  std::vector<int64_t> k = {0};  // of each segment
  DType dtype = DType::bfloat16;
  bool gather_a = false, gather_b = false, b_by_steps = false, side_by_side = false, absent = false;
  int hot_with_nan = -1;  // a group whose rows are NaN
};

const Case kCases[] = {
    {.name = "remainders", .offsets = {0, 3, 3, 70, 134}, .R = 140, .n = 72, .k = {104}},
    {.name = "multiples", .offsets = {0, 64, 192}, .R = 192, .n = 256, .k = {128}},
    {.name = "one hot group", .offsets = {0, 0, 0, 300, 300}, .R = 300, .n = 136, .k = {72}},
    {.name = "no rows", .offsets = {0, 0, 0}, .R = 0, .n = 8, .k = {8}},
    {.name = "no group's rows", .offsets = {0, 0, 0}, .R = 9, .n = 8, .k = {8}},
    {.name = "many groups",
     .offsets = {0,  0,  1,  1,  1,  2,  3,  3,  3,  3,  70, 70, 70, 71, 71, 71, 71, 71, 71, 71, 71,
                 71, 72, 72, 72, 72, 72, 72, 72, 72, 72, 72, 72, 72, 75, 75, 75, 76, 77, 77, 78},
     .R = 80,
     .n = 16,
     .k = {24}},
    {.name = "one group without offsets", .offsets = {}, .R = 90, .n = 40, .k = {56}},
    {.name = "[E, K, N]", .offsets = {0, 70, 75}, .R = 75, .n = 136, .k = {88}, .b_by_steps = true},
    {.name = "[E, K, N] in float16",
     .offsets = {0, 5, 80},
     .R = 80,
     .n = 200,
     .k = {64},
     .dtype = DType::float16,
     .b_by_steps = true},
    {.name = "gathered rows",
     .offsets = {0, 100, 101, 101, 140},
     .R = 150,
     .n = 72,
     .k = {168},
     .gather_a = true},
    {.name = "side by side, gathered",
     .offsets = {0, 10, 140},
     .R = 140,
     .n = 104,
     .k = {72},
     .dtype = DType::float16,
     .gather_a = true,
     .side_by_side = true},
    {.name = "side by side, [E, K, N]",
     .offsets = {0, 10, 90},
     .R = 90,
     .n = 72,
     .k = {72},
     .b_by_steps = true,
     .side_by_side = true},
    {.name = "odd widths, gathered",
     .offsets = {0, 20, 90},
     .R = 90,
     .n = 75,
     .k = {101},
     .gather_a = true,
     .b_by_steps = true},
    {.name = "segments",
     .offsets = {0, 40, 40, 110},
     .R = 110,
     .n = 80,
     .k = {136, 8, 64, 16},
     .gather_a = true},
    {.name = "segments side by side, each of one matrix",
     .offsets = {0, 40, 90},
     .R = 90,
     .n = 80,
     .k = {72, 8, 16},
     .side_by_side = true,
     .absent = true},
    {.name = "ragged k",
     .ragged = Ragged::k,
     .offsets = {0, 3, 3, 131, 195},
     .R = 200,
     .m = 136,
     .n = 72,
     .hot_with_nan = 2},
    {.name = "ragged k in float16",
     .ragged = Ragged::k,
     .offsets = {0, 64, 65, 70},
     .R = 70,
     .m = 72,
     .n = 264,
     .dtype = DType::float16,
     .hot_with_nan = 1},
    {.name = "ragged k, rows of A gathered",
     .ragged = Ragged::k,
     .offsets = {0, 20, 20, 110, 121},
     .R = 125,
     .m = 80,
     .n = 136,
     .gather_a = true,
     .hot_with_nan = 0},
    {.name = "ragged k, rows of B gathered",
     .ragged = Ragged::k,
     .offsets = {0, 20, 20, 160, 171},
     .R = 175,
     .m = 144,
     .n = 200,
     .gather_b = true,
     .hot_with_nan = 0},
    {.name = "ragged k without rows", .ragged = Ragged::k, .offsets = {0, 0, 0}, .R = 0, .m = 72, .n = 8},
};

// Operands of a case, as GroupedGemm has them.
class Problem {
 public:
  Problem(Bench& bench, const Case& c) : bench_(bench), c_(c) {
    gemm = {.groups = std::max<int32_t>(1, static_cast<int32_t>(c.offsets.size()) - 1),
            .offsets = c.offsets.empty() ? nullptr : bench.ints(c.offsets).i32(),
            .rows = c.R,
            .ragged = c.ragged,
            .m = c.m,
            .n = c.n,
            .side_by_side = c.side_by_side};
    for (size_t s = 0; s < c.k.size(); ++s) gemm.segments.add(segment(s));
  }

  GroupedGemm gemm;

 private:
  static constexpr int32_t kDivisor = 2;

  // Stored rows start at multiples of 16 bytes, with columns of NaN behind those of the operand.
  static int64_t stride_of(int64_t columns) { return columns / 8 * 8 + 8; }

  Segment segment(size_t s) {
    const int64_t k = c_.k[s];
    if (c_.ragged == Ragged::k) return {.a = steps(c_.m, c_.gather_a), .b = {steps(c_.n, c_.gather_b)}};
    Segment made = {.k = k, .a = rows(k, c_.gather_a && s == 0)};
    for (int matrix = 0; matrix < (c_.side_by_side ? 2 : 1); ++matrix) {
      made.b[matrix] = weights(k);
      made.b[matrix].absent = c_.absent && s > 0 && static_cast<size_t>(matrix) == s % 2;
    }
    return made;
  }

  // [E, n, k] or [E, k, n]
  Operand weights(int64_t k) {
    const int64_t stored = c_.b_by_steps ? k : c_.n, along = c_.b_by_steps ? c_.n : k;
    const Tensor tensor = bench_.random(c_.dtype, gemm.groups * stored, stride_of(along), along);
    return {.data = tensor.data,
            .dtype = c_.dtype,
            .row_stride = stride_of(along),
            .group_stride = stored * stride_of(along),
            .k_contiguous = !c_.b_by_steps};
  }

  // [R, width], or of fewer rows which an index finds; positions out of range are zeros.
  Operand rows(int64_t width, bool gathered) {
    const int64_t count = gathered ? c_.R / 3 + 1 : c_.R;
    const Tensor tensor = bench_.random(c_.dtype, count, stride_of(width), width);
    Operand operand = {
        .data = tensor.data, .dtype = c_.dtype, .row_stride = stride_of(width), .row_count = count};
    if (!gathered) return operand;
    std::vector<int32_t> index;
    for (int64_t r = 0; r < c_.R; ++r)
      index.push_back(r % 37 == 5 ? -7 : static_cast<int32_t>((r * 11) % (kDivisor * (count + 1))));
    operand.row_index = bench_.ints(index).i32();
    operand.row_divisor = kDivisor;
    return operand;
  }

  // Rows that no group may take from another, and those of none.
  Operand steps(int64_t width, bool gathered) {
    const Operand operand = rows(width, gathered);
    if (!gathered) {
      Tensor tensor = {.dtype = c_.dtype, .rank = 2, .dims = {c_.R, operand.row_stride}, .present = true};
      tensor.data = const_cast<void*>(operand.data);
      bench_.fill_with_nan(tensor, c_.offsets.back(), c_.R);
      if (c_.hot_with_nan >= 0) {
        const auto group = static_cast<size_t>(c_.hot_with_nan);
        bench_.fill_with_nan(tensor, c_.offsets[group], c_.offsets[group + 1]);
      }
    }
    return as_steps(operand);
  }

  Bench& bench_;
  const Case& c_;
};

// All rows of C, in float32.
struct Stored {
  Tensor tensor;
  cuda::Epilogue epilogue;
};

Stored store_all(Bench& bench, const GroupedGemm& gemm) {
  const bool ragged_m = gemm.ragged == Ragged::m;
  const Tensor out = bench.untouched(DType::float32, ragged_m ? gemm.rows : gemm.groups * gemm.m, gemm.n);
  cuda::Block block = cuda::block_of(out);
  if (!ragged_m) block.group_stride = gemm.m * gemm.n;
  return {out, cuda::Store{.out = block}};
}

// Side by side, the pre-activation rows of an activation: the products as they are.
Stored activate_all(Bench& bench, const GroupedGemm& gemm) {
  const Tensor pre = bench.untouched(DType::float32, gemm.rows, 2 * gemm.n);
  return {pre, cuda::Activate{.activation = {.function = Activation::swiglu},
                              .intermediate = gemm.n,
                              .dtype = DType::float32,
                              .pre_activation = pre.data}};
}

}  // namespace

TEST_CASE("wgmma products: every configuration, layout and remainder") {
  for (const Case& c : kCases) {
    INFO(std::string(c.name));
    Bench bench;
    const Problem problem(bench, c);
    const std::vector<double> want = product_of(problem.gemm);
    std::vector<uint32_t> first;
    each_config(c.side_by_side, [&](const HopperConfig& config) {
      const Stored stored =
          c.side_by_side ? activate_all(bench, problem.gemm) : store_all(bench, problem.gemm);
      cuda::hopper_gemm(problem.gemm, stored.epilogue, config, bench.context());
      const std::vector<uint32_t> bits = bench.bits(stored.tensor);
      CHECK(distance(bench.values(stored.tensor), want) <= 1e-6);
      if (first.empty()) first = bits;
      CHECK(bits == first);
    });
  }
}

TEST_CASE("wgmma products: a row has the same bits in any company") {
  const Case all = {.name = "", .offsets = {0, 5, 200}, .R = 200, .n = 72, .k = {136}};
  Bench bench;
  const Problem problem(bench, all);
  const Stored whole = store_all(bench, problem.gemm);
  cuda::hopper_gemm(problem.gemm, whole.epilogue, {.tile_m = 128, .tile_n = 128, .stages = 3},
                    bench.context());
  const std::vector<uint32_t> rows = bench.bits(whole.tensor);
  for (const int64_t first : {5, 63, 197}) {
    GroupedGemm few = problem.gemm;
    few.rows = 3;
    few.offsets = bench.ints({0, 0, 3}).i32();
    few.segments = {problem.gemm.segments[0]};
    Segment segment = problem.gemm.segments[0];
    segment.a = columns_of(segment.a, first * segment.a.row_stride);
    segment.a.row_count = few.rows;
    few.segments = {segment};
    const Stored part = store_all(bench, few);
    const auto config = hopper_config(cuda::shape_of(few, false), bench.context().limits());
    REQUIRE(config.has_value());
    cuda::hopper_gemm(few, part.epilogue, *config, bench.context());
    const std::vector<uint32_t> got = bench.bits(part.tensor);
    CHECK(std::equal(got.begin(), got.end(), rows.begin() + first * all.n));
  }
}

TEST_CASE("wgmma products: offsets out of range touch nothing that is not theirs") {
  for (const std::vector<int32_t>& offsets :
       {std::vector<int32_t>{0, 90, 30}, {20, 30, 60}, {0, 20, 900}, {0, -50, 60}, {-70, 20, 60}}) {
    for (Ragged ragged : {Ragged::m, Ragged::k}) {
      Bench bench;
      Case c = {.name = "", .ragged = ragged, .offsets = {0, 10, 60}, .R = 60, .m = 72, .n = 72, .k = {72}};
      Problem problem(bench, c);
      problem.gemm.offsets = bench.ints(offsets).i32();
      const Stored stored = store_all(bench, problem.gemm);
      cuda::hopper_gemm(problem.gemm, stored.epilogue, {.tile_m = 64, .tile_n = 64, .stages = 2},
                        bench.context());
      CHECK_EQ(bench.bits(stored.tensor).size(), static_cast<size_t>(stored.tensor.elements()));
    }
  }
}

namespace {

void check_epilogues(DType dtype) {
  constexpr int64_t R = 140, I = 136, H = 72;
  Bench bench;
  const Case backward = {
      .name = "", .offsets = {0, 33, 33, 140}, .R = R, .n = I, .k = {H}, .dtype = dtype, .gather_a = true};
  const Problem problem(bench, backward);
  const Tensor pre = bench.random(dtype, R, 2 * I, 2 * I);
  const Tensor bias = bench.random(DType::float32, 3, I, I);
  for (bool interleaved : {false, true}) {
    std::vector<std::vector<uint32_t>> first;
    each_config(false, [&](const HopperConfig& config) {
      const Tensor d_pre = bench.untouched(dtype, R, 2 * I);
      const Tensor weighted = bench.untouched(dtype, R, I);
      const Tensor dots = bench.untouched(DType::float32, R, (I + cuda::kDotColumns - 1) / cuda::kDotColumns);
      const Tensor activated = bench.untouched(dtype, R, I / 2);
      const cuda::ActivateBackward through = {.activation = {.function = Activation::swiglu},
                                              .interleaved = interleaved,
                                              .intermediate = I,
                                              .dtype = dtype,
                                              .pre_activation = pre.data,
                                              .d_pre_activation = d_pre.data,
                                              .weighted = weighted.data,
                                              .dots = dots.f32()};
      cuda::hopper_gemm(problem.gemm, through, config, bench.context());
      cuda::Block biases = cuda::block_of(bias);
      std::swap(biases.group_stride, biases.row_stride);
      cuda::hopper_gemm(problem.gemm,
                        cuda::Activate{.activation = {.function = Activation::geglu},
                                       .interleaved = true,
                                       .intermediate = I / 2,
                                       .gate_bias = biases,
                                       .up_bias = biases,
                                       .dtype = dtype,
                                       .out = activated.data},
                        config, bench.context());
      std::vector<std::vector<uint32_t>> outputs;
      for (const Tensor& output : {d_pre, weighted, dots, activated}) outputs.push_back(bench.bits(output));
      if (first.empty()) first = outputs;
      for (size_t i = 0; i < first.size(); ++i) {
        CAPTURE(i);
        CHECK(outputs[i] == first[i]);
        CHECK(std::none_of(outputs[i].begin(), outputs[i].end(),
                           [](uint32_t bits) { return bits == 0xffffffffu || bits == 0xffffu; }));
      }
    });
  }
}

}  // namespace

TEST_CASE("wgmma products: epilogues have the same bits whatever the tile") {
  for (DType dtype : {DType::bfloat16, DType::float16}) {
    INFO(std::string(name_of(dtype)));
    check_epilogues(dtype);
  }
}

}  // namespace moe::test
