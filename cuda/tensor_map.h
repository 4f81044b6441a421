// Tensor maps: what hardware copies boxes of a tensor by.
#pragma once

#include <cuda.h>

#include "cuda/runtime.h"
#include "ops/dtype.h"

namespace moe::cuda {

// Matrices of `rows` stored rows of `columns` contiguous elements each; strides in elements.
struct MatrixStack {
  const void* data = nullptr;
  DType dtype = DType::bfloat16;
  int64_t columns = 0, rows = 0, matrices = 1;
  int64_t row_stride = 0, matrix_stride = 0;
};

// Boxes of box_rows × box_columns of one matrix, found by (column, row, matrix); what of them is outside is
// zeros. In shared memory rows of 128 bytes lie one after the other, in the 128-byte swizzle. Of an empty
// stack, a map that must not be used.
CUtensorMap tensor_map(const MatrixStack& stack, int box_rows, int box_columns);

}  // namespace moe::cuda
