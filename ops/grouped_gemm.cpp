#include "ops/grouped_gemm.h"

namespace moe {

Operand operand_of(const Tensor& rows, int64_t first_column) {
  return columns_of(
      {.data = rows.data, .dtype = rows.dtype, .row_stride = rows.dim(1), .row_count = rows.dim(0)},
      first_column);
}

Operand operand_of(const ExpertMatrix& matrix) {
  const bool k_contiguous = matrix.column_stride == 1;
  return columns_of({.data = matrix.tensor.data,
                     .dtype = matrix.tensor.dtype,
                     .row_stride = k_contiguous ? matrix.row_stride : matrix.column_stride,
                     .group_stride = matrix.expert_stride,
                     .k_contiguous = k_contiguous},
                    matrix.offset);
}

Operand columns_of(Operand rows, int64_t first) {
  rows.data = static_cast<const char*>(rows.data) + first * static_cast<int64_t>(bytes_of(rows.dtype));
  return rows;
}

Operand as_steps(Operand rows) {
  rows.k_contiguous = false;
  return rows;
}

GroupedGemm times_transposed(const Tensor& left, const Tensor& right) {
  return {.rows = left.dim(0),
          .n = right.dim(0),
          .segments = {{.k = left.dim(1), .a = operand_of(left), .b = {operand_of(right)}}},
          .forward = true};
}

GroupedGemm times(const Tensor& left, const Tensor& right) {
  return {.rows = left.dim(0),
          .n = right.dim(1),
          .segments = {{.k = left.dim(1), .a = operand_of(left), .b = {as_steps(operand_of(right))}}}};
}

GroupedGemm transposed_times(const Tensor& left, const Tensor& right) {
  return {.rows = left.dim(0),
          .ragged = Ragged::k,
          .m = left.dim(1),
          .n = right.dim(1),
          .segments = {{.a = as_steps(operand_of(left)), .b = {as_steps(operand_of(right))}}}};
}

}  // namespace moe
