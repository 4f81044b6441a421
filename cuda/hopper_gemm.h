// The grouped product on compute capability 9.0: what grouped_gemm() becomes where hopper_config() has an
// answer.
#pragma once

#include "cuda/grouped_gemm.h"
#include "cuda/hopper_config.h"

namespace moe::cuda {

void hopper_gemm(const GroupedGemm& gemm, const Epilogue& epilogue, const HopperConfig& config,
                 const Context& context);

}  // namespace moe::cuda
