// The grouped products of float32 rounded to tf32, on tensor cores, instantiated apart so that they compile
// side by side.
#include "cuda/device/grouped_product.cuh"

namespace moe::cuda {

template void grouped_product<Arithmetic::tf32>(const GroupedGemm&, const Epilogue&, const GemmConfig&,
                                                const Context&);

}  // namespace moe::cuda
