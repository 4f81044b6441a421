// The driver encodes tensor maps. It is asked for the function at run time, so that the addon loads without
// one.
#include "cuda/tensor_map.h"

#include <string>

namespace moe::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

Encode encoder() {
  static const Encode encode = [] {
    constexpr unsigned kSince = 12000;  // the first version with tensor maps
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, kSince, cudaEnableDefault,
                                           &found),
          "cudaGetDriverEntryPointByVersion");
    if (found != cudaDriverEntryPointSuccess || function == nullptr)
      throw Error(kErrDevice, "the driver has no cuTensorMapEncodeTiled");
    return reinterpret_cast<Encode>(function);
  }();
  return encode;
}

}  // namespace

CUtensorMap tensor_map(const MatrixStack& stack, int box_rows, int box_columns) {
  CUtensorMap map = {};
  if (stack.columns <= 0 || stack.rows <= 0 || stack.matrices <= 0) return map;
  const auto type =
      stack.dtype == DType::bfloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  const auto count = [](int64_t value) { return static_cast<cuuint64_t>(value); };
  const cuuint64_t bytes = bytes_of(stack.dtype);
  // The stride of a dimension of one must do, too: that of an only matrix is any that is allowed.
  const int64_t matrix_stride = stack.matrix_stride != 0 ? stack.matrix_stride : stack.row_stride;
  const cuuint64_t dims[] = {count(stack.columns), count(stack.rows), count(stack.matrices)};
  const cuuint64_t strides[] = {count(stack.row_stride) * bytes, count(matrix_stride) * bytes};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(box_columns), static_cast<cuuint32_t>(box_rows), 1};
  const cuuint32_t every[] = {1, 1, 1};
  const CUresult status = encoder()(&map, type, 3, const_cast<void*>(stack.data), dims, strides, box, every,
                                    CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                    CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw Error(kErrDevice, "cuTensorMapEncodeTiled: CUresult " + std::to_string(static_cast<int>(status)));
  return map;
}

}  // namespace moe::cuda
