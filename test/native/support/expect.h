// What tests compare: errors as norms against float64 so that NaN fails, and matrices inside larger memory.
#pragma once

#include <doctest.h>

#include <cmath>
#include <cstdint>
#include <string>

#include "cpu/kernels.h"
#include "support/array.h"

namespace moe::test {

// Collects ‖got - want‖ / ‖want‖ over elements of unit scale. `size` replaces |want| where terms cancel.
class RelativeError {
 public:
  void add(double got, double want) { add(got, want, want); }
  void add(double got, double want, double size) {
    error_ += (got - want) * (got - want);
    scale_ += size * size;
  }
  // False for NaN. Zeros must be exact.
  bool within(double bound) const { return std::sqrt(error_) <= bound * std::sqrt(scale_); }
  double value() const { return std::sqrt(error_ / scale_); }

 private:
  double error_ = 0, scale_ = 0;
};

// Of a correct kernel's results over the inputs here: some float32 roundings, and one to the dtype.
inline double bound_of(DType dtype) {
  switch (dtype) {
    case DType::bfloat16:
      return 0x1p-8 + 1e-6;
    case DType::float16:
      return 0x1p-11 + 1e-6;
    default:
      return 1e-6;
  }
}

// A matrix inside an array, with its rows `stride` elements apart.
struct Matrix {
  Array& array;
  int64_t rows, columns, stride;

  // Elements that hold it and the gaps between its rows.
  static int64_t span(int64_t rows, int64_t columns, int64_t stride) {
    return rows == 0 ? 0 : (rows - 1) * stride + columns;
  }
};

// Where an array was written although no row of the matrix lies there, or an empty text.
inline std::string written_outside(const Matrix& matrix) {
  if (!matrix.array.guard_untouched()) return "before the first element";
  for (int64_t i = 0; i < matrix.array.size(); ++i) {
    if (i % matrix.stride >= matrix.columns && !matrix.array.untouched(i)) return "at " + std::to_string(i);
  }
  return "";
}

// Checks a matrix against want(row, column) and that nothing beside it was written. Elements smaller than
// `least` count as if they were of that size.
template <class Want>
void check_close(const Matrix& got, Want want, double bound, double least = 0) {
  RelativeError error;
  for (int64_t row = 0; row < got.rows; ++row) {
    for (int64_t column = 0; column < got.columns; ++column) {
      const double wanted = want(row, column);
      error.add(got.array[row * got.stride + column], wanted, std::fmax(std::fabs(wanted), least));
    }
  }
  CHECK_MESSAGE(error.within(bound), "relative error ", error.value(), " over ", bound);
  CHECK_EQ(written_outside(got), "");
}

// Calls body(table) for every instruction set that this processor runs.
template <class Body>
void for_each_table(Body body) {
  const cpu::KernelList& list = cpu::available_kernels();
  for (int i = 0; i < list.count; ++i) {
    INFO("table ", std::string(list.tables[i]->name));
    body(*list.tables[i]);
  }
}

// Whether a table's multiply-add rounds once. SSE2 has none that does.
inline bool fuses(const cpu::Kernels& table) {
#if defined(__x86_64__)
  return std::string(table.name) != "baseline";
#else
  (void)table;
  return true;
#endif
}

// One step of a sum as `table` takes it.
inline float multiply_add(const cpu::Kernels& table, float a, float b, float sum) {
  if (fuses(table)) return std::fma(a, b, sum);
  const volatile float product = a * b;  // never contracted
  return sum + product;
}

}  // namespace moe::test
