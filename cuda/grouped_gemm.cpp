#include "cuda/grouped_gemm.h"

#include <cstdio>
#include <cstdlib>

#include "cuda/grouped_product.h"
#include "cuda/hopper_gemm.h"
#include "ops/precision.h"

namespace moe::cuda {
namespace {

// MOE_KERNELS_PRINT_CONFIG=1 tells on standard error how each product is made.
bool prints_config() {
  static const bool asked = [] {
    const char* value = std::getenv("MOE_KERNELS_PRINT_CONFIG");
    return value != nullptr && std::string(value) == "1";
  }();
  return asked;
}

template <class Config>
void print(const GemmShape& shape, const Config& config) {
  if (prints_config()) std::fprintf(stderr, "%s: %s\n", describe(shape).c_str(), describe(config).c_str());
}

}  // namespace

Block block_of(const ExpertMatrix& matrix) {
  if (!matrix) return {};
  const int64_t bytes = matrix.offset * static_cast<int64_t>(bytes_of(matrix.tensor.dtype));
  return {.data = matrix.tensor.as<char>() + bytes,
          .dtype = matrix.tensor.dtype,
          .group_stride = matrix.expert_stride,
          .row_stride = matrix.row_stride,
          .column_stride = matrix.column_stride};
}

Block block_of(const Tensor& rows) {
  return {.data = rows.data, .dtype = rows.dtype, .row_stride = rows.dim(1)};
}

void grouped_gemm(const GroupedGemm& gemm, const Epilogue& epilogue, const Context& context) {
  const GemmShape shape = shape_of(gemm, float32_matmul() == Float32Matmul::tf32);
  if (const std::optional<HopperConfig> config = hopper_config(shape, context.limits())) {
    print(shape, *config);
    return hopper_gemm(gemm, epilogue, *config, context);
  }
  const GemmConfig config = gemm_config(shape, context.limits());
  print(shape, config);
  switch (config.arithmetic) {
    case Arithmetic::float32:
      return grouped_product<Arithmetic::float32>(gemm, epilogue, config, context);
    case Arithmetic::tf32:
      return grouped_product<Arithmetic::tf32>(gemm, epilogue, config, context);
    case Arithmetic::bfloat16:
      return grouped_product<Arithmetic::bfloat16>(gemm, epilogue, config, context);
    case Arithmetic::float16:
      return grouped_product<Arithmetic::float16>(gemm, epilogue, config, context);
  }
}

}  // namespace moe::cuda
