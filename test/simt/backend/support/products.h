// Grouped products called directly, in any configuration: operands on the emulated device, and what a plain
// loop in double makes of them.
#pragma once

#include <cuda_runtime.h>
#include <doctest.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cuda/context.h"
#include "cuda/devices.h"
#include "cuda/hopper_gemm.h"

namespace moe::test {

// A stream, and memory that lives as long.
class Bench {
 public:
  cuda::Context context() const { return {stream_, cuda::limits_of(0), nullptr}; }

  // Unit scale, in rows of `stride`; NaN from column `columns` on, which nobody may use.
  Tensor random(DType dtype, int64_t rows, int64_t stride, int64_t columns);
  Tensor ints(const std::vector<int32_t>& values);
  // All bits set.
  Tensor untouched(DType dtype, int64_t rows, int64_t columns);
  void fill_with_nan(const Tensor& tensor, int64_t first_row, int64_t end_row);

  // Waits for the device.
  std::vector<uint32_t> bits(const Tensor& tensor) const;
  std::vector<double> values(const Tensor& tensor) const;

 private:
  Tensor write(DType dtype, int64_t rows, int64_t columns, const std::vector<uint32_t>& bits);

  std::shared_ptr<cuda::Stream> stream_ = std::make_shared<cuda::Stream>(0);
  std::vector<std::shared_ptr<Storage>> memory_;
  std::mt19937 random_{7};
};

// C of a product whose operands and offsets the host can read: [R, n], or [groups, m, n]; side by side
// [R, 2n]. NaN where there is no routed row.
std::vector<double> product_of(const GroupedGemm& gemm);

// Relative, as norms; NaN where the two are not NaN at the same places.
double distance(const std::vector<double>& got, const std::vector<double>& want);

}  // namespace moe::test
