// CUDA's keywords, for a compiler that does not know them. `__shared__` is absent on purpose: every block has
// its own arena, so kernels ask for it with simt::dynamic_shared().
#pragma once

// Marks kernels in the symbol table, by which a test knows all there are.
#define __global__ __attribute__((abi_tag("kernel")))
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)
