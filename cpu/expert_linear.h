// The linear maps of experts, multiplied on the CPU.
#pragma once

#include "cpu/expert_gemm.h"
#include "cpu/workspace.h"
#include "ops/expert_linear.h"

namespace moe::cpu {

struct ProductBackend {
  using Epilogue = cpu::Epilogue;
  using Activate = cpu::Activate;
  using Workspace = cpu::Workspace;

  static Workspace workspace(int64_t rows, int64_t columns, DType dtype) { return {rows, columns, dtype}; }
  static void multiply(const GroupedGemm& gemm, const Epilogue& epilogue) { grouped_gemm(gemm, epilogue); }
  static Epilogue store_rows(const Tensor& out, float scale) { return StoreRows{.out = out, .scale = scale}; }
  static Epilogue store_block(const ExpertMatrix& out, bool accumulate) {
    return cpu::store_block(out, accumulate);
  }
  static Activate with_biases(Activate activate, const UpBiases& biases) {
    activate.gate_bias = biases.gate;
    activate.up_bias = biases.up;
    return activate;
  }
};

using Products = ExpertProducts<ProductBackend>;

}  // namespace moe::cpu
