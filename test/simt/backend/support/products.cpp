#include "support/products.h"

#include <cmath>
#include <cstring>

#include "support/device.h"

namespace moe::test {
namespace {

double element_of(const Operand& operand, int64_t group, int64_t stored, int64_t along) {
  if (operand.absent) return 0;
  const int64_t position =
      operand.row_index != nullptr ? operand.row_index[stored] / operand.row_divisor : stored;
  if (position < 0 || position >= operand.row_count) return 0;
  const auto* data = static_cast<const uint16_t*>(operand.data);
  return value_of(operand.dtype, data[group * operand.group_stride + position * operand.row_stride + along]);
}

double element_of(const Operand& operand, int64_t group, int64_t lane, int64_t step, bool k_contiguous) {
  return k_contiguous ? element_of(operand, group, lane, step) : element_of(operand, group, step, lane);
}

}  // namespace

Tensor Bench::write(DType dtype, int64_t rows, int64_t columns, const std::vector<uint32_t>& bits) {
  Tensor tensor = {.dtype = dtype, .rank = 2, .dims = {rows, columns}, .present = true};
  memory_.push_back(cuda::allocate_device(stream_, tensor.bytes()));
  tensor.data = memory_.back()->data();
  REQUIRE_EQ(cudaStreamSynchronize(stream_->get()), cudaSuccess);
  const size_t each = bytes_of(dtype);
  for (size_t i = 0; i < bits.size(); ++i) std::memcpy(tensor.as<char>() + i * each, &bits[i], each);
  return tensor;
}

Tensor Bench::random(DType dtype, int64_t rows, int64_t stride, int64_t columns) {
  std::normal_distribution<float> normal;
  std::vector<uint32_t> bits;
  for (int64_t i = 0; i < rows * stride; ++i)
    bits.push_back(i % stride < columns ? bits_of(dtype, normal(random_)) : 0xffffffffu);
  return write(dtype, rows, stride, bits);
}

Tensor Bench::ints(const std::vector<int32_t>& values) {
  return write(DType::int32, 1, static_cast<int64_t>(values.size()), {values.begin(), values.end()});
}

Tensor Bench::untouched(DType dtype, int64_t rows, int64_t columns) {
  return write(dtype, rows, columns, std::vector<uint32_t>(static_cast<size_t>(rows * columns), 0xffffffffu));
}

void Bench::fill_with_nan(const Tensor& tensor, int64_t first_row, int64_t end_row) {
  const auto row = static_cast<int64_t>(bytes_of(tensor.dtype)) * tensor.dim(1);
  std::memset(tensor.as<char>() + first_row * row, 0xff, static_cast<size_t>((end_row - first_row) * row));
}

std::vector<uint32_t> Bench::bits(const Tensor& tensor) const {
  REQUIRE_EQ(cudaStreamSynchronize(stream_->get()), cudaSuccess);
  const size_t each = bytes_of(tensor.dtype);
  std::vector<uint32_t> bits(static_cast<size_t>(tensor.elements()), 0);
  for (size_t i = 0; i < bits.size(); ++i) std::memcpy(&bits[i], tensor.as<char>() + i * each, each);
  return bits;
}

std::vector<double> Bench::values(const Tensor& tensor) const {
  std::vector<double> values;
  for (uint32_t each : bits(tensor)) values.push_back(value_of(tensor.dtype, each));
  return values;
}

std::vector<double> product_of(const GroupedGemm& gemm) {
  const bool ragged_m = gemm.ragged == Ragged::m;
  const int64_t width = gemm.side_by_side ? 2 * gemm.n : gemm.n;
  const int64_t rows_of_c = ragged_m ? gemm.rows : gemm.groups * gemm.m;
  std::vector<double> c(static_cast<size_t>(rows_of_c * width), NAN);
  for (int64_t group = 0; group < gemm.groups; ++group) {
    const int64_t begin = gemm.offsets != nullptr ? gemm.offsets[group] : 0;
    const int64_t end = gemm.offsets != nullptr ? gemm.offsets[group + 1] : gemm.rows;
    for (int64_t row = ragged_m ? begin : 0; row < (ragged_m ? end : gemm.m); ++row) {
      for (int64_t column = 0; column < width; ++column) {
        double sum = 0;
        for (const Segment& segment : gemm.segments) {
          const Operand &a = segment.a, &b = segment.b[column / gemm.n];
          for (int64_t k = ragged_m ? 0 : begin; k < (ragged_m ? segment.k : end); ++k) {
            sum += element_of(a, group, row, k, a.k_contiguous) *
                   element_of(b, group, column % gemm.n, k, b.k_contiguous);
          }
        }
        c[static_cast<size_t>(((ragged_m ? 0 : group * gemm.m) + row) * width + column)] = sum;
      }
    }
  }
  return c;
}

double distance(const std::vector<double>& got, const std::vector<double>& want) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::isnan(got[i]) && std::isnan(want[i])) continue;
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return norm > 0 ? std::sqrt(error / norm) : error;
}

}  // namespace moe::test
