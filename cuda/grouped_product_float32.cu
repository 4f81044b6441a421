// The grouped products of float32 by fused multiply-adds, instantiated apart so that they compile side by
// side.
#include "cuda/device/grouped_product.cuh"

namespace moe::cuda {

template void grouped_product<Arithmetic::float32>(const GroupedGemm&, const Epilogue&, const GemmConfig&,
                                                   const Context&);

}  // namespace moe::cuda
