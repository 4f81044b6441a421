// Whole rows: weighted sums and dot products of every dtype, width and remainder against float64.
#include <vector>

#include "support/expect.h"

namespace moe::test {
namespace {

// Every remainder of a register and of a block of four.
std::vector<int64_t> widths_of(const cpu::Kernels& table) {
  const int64_t w = table.width;
  std::vector<int64_t> widths;
  for (int64_t width = 1; width <= w + 1; ++width) widths.push_back(width);
  for (int64_t width : {2 * w + 1, 3 * w, 4 * w - 1, 4 * w, 4 * w + 1, 9 * w + 3}) widths.push_back(width);
  return widths;
}

struct SumCase {
  DType dtype, out_dtype;
  int64_t count, width;
  bool with_weights, accumulate;
};

void check_sum(const cpu::Kernels& table, const SumCase& given, Random& random) {
  Array source(given.dtype, given.count * given.width, random), weights(DType::float32, given.count, random);
  Array out(given.out_dtype, given.width);
  std::vector<const void*> rows;
  for (int64_t j = given.count - 1; j >= 0; --j) rows.push_back(source.at(j * given.width));
  if (given.accumulate) out.fill(random);
  std::vector<double> want, sizes;
  for (int64_t i = 0; i < given.width; ++i) {
    double sum = given.accumulate ? out[i] : 0, size = std::fabs(sum);
    for (int64_t j = 0; j < given.count; ++j) {
      const double term =
          (given.with_weights ? weights[j] : 1) * source[(given.count - 1 - j) * given.width + i];
      sum += term;
      size += std::fabs(term);
    }
    want.push_back(sum);
    sizes.push_back(size);
  }
  table.sum_rows({.rows = rows.data(),
                  .weights = given.with_weights ? weights.f32() : nullptr,
                  .count = given.count,
                  .width = given.width,
                  .dtype = given.dtype,
                  .out = out.at(0),
                  .out_dtype = given.out_dtype,
                  .accumulate = given.accumulate});
  RelativeError error;
  for (int64_t i = 0; i < given.width; ++i)
    error.add(out[i], want[static_cast<size_t>(i)], sizes[static_cast<size_t>(i)]);
  CHECK_MESSAGE(error.within(bound_of(given.out_dtype)), "relative error ", error.value());
  CHECK(out.guard_untouched());
}

template <class Body>
void for_each_pair_of_dtypes(Body body) {
  for_each_table([&](const cpu::Kernels& table) {
    for (DType first : kFloatDTypes) {
      for (DType second : kFloatDTypes) {
        INFO(std::string(name_of(first)), " and ", std::string(name_of(second)));
        body(table, first, second);
      }
    }
  });
}

}  // namespace

TEST_SUITE("kernels") {
  TEST_CASE("sums of rows agree with float64") {
    Random random(6);
    for_each_pair_of_dtypes([&](const cpu::Kernels& table, DType dtype, DType out_dtype) {
      for (int64_t width : widths_of(table)) {
        for (int64_t count : {0, 1, 2, 7}) {
          for (int parts = 0; parts < 4; ++parts) {
            CAPTURE(width);
            CAPTURE(count);
            CAPTURE(parts);
            check_sum(table, {dtype, out_dtype, count, width, (parts & 1) != 0, (parts & 2) != 0}, random);
          }
        }
      }
    });
  }

  TEST_CASE("dot products agree with float64") {
    Random random(7);
    for_each_pair_of_dtypes([&](const cpu::Kernels& table, DType a_dtype, DType b_dtype) {
      for (int64_t width : widths_of(table)) {
        CAPTURE(width);
        const Array a(a_dtype, width, random), b(b_dtype, width, random);
        double sum = 0, size = 0;
        for (int64_t i = 0; i < width; ++i) {
          sum += a[i] * b[i];
          size += std::fabs(a[i] * b[i]);
        }
        const double got = table.dot(a.at(0), a_dtype, b.at(0), b_dtype, width);
        CHECK(std::fabs(got - sum) <= bound_of(DType::float32) * size);
      }
    });
  }
}

}  // namespace moe::test
