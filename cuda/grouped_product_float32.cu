#include "cuda/device/grouped_product.cuh"

namespace moe::cuda {

template void grouped_product<Arithmetic::float32>(const GroupedGemm&, const Epilogue&, const GemmConfig&,
                                                   const Context&);

}  // namespace moe::cuda
