// The linear maps of experts, multiplied on a GPU.
#pragma once

#include "cuda/grouped_gemm.h"
#include "cuda/routed_rows.h"
#include "ops/expert_linear.h"

namespace moe::cuda {

// One value of each group for every output: where Store, Activate and sum_groups find it.
inline Block bias_block(const ExpertMatrix& bias) {
  return block_of(bias.transposed());
}

struct ProductBackend {
  using Epilogue = cuda::Epilogue;
  using Activate = cuda::Activate;
  using Workspace = cuda::Workspace;
  const Context& context;

  Workspace workspace(int64_t rows, int64_t columns, DType dtype) const {
    return context.workspace(rows, columns, dtype);
  }
  void multiply(const GroupedGemm& gemm, const Epilogue& epilogue) const {
    grouped_gemm(gemm, epilogue, context);
  }
  static Epilogue store_rows(const Tensor& out, float scale) {
    return Store{.out = block_of(out), .scale = scale};
  }
  static Epilogue store_block(const ExpertMatrix& out, bool accumulate) {
    return Store{.out = block_of(out), .accumulate = accumulate};
  }
  static Activate with_biases(Activate activate, const UpBiases& biases) {
    activate.gate_bias = bias_block(biases.gate);
    activate.up_bias = bias_block(biases.up);
    return activate;
  }
};

using Products = ExpertProducts<ProductBackend>;

}  // namespace moe::cuda
