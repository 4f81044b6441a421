// The grouped product that serves every shape, dtype and device, by arithmetic.
#pragma once

#include "cuda/gemm_config.h"
#include "cuda/grouped_gemm.h"

namespace moe::cuda {

template <Arithmetic kArithmetic>
void grouped_product(const GroupedGemm& gemm, const Epilogue& epilogue, const GemmConfig& config,
                     const Context& context);

}  // namespace moe::cuda
