// What this machine's cores reach at most, measured: register tiles on panels that stay in the first-level
// cache, and reading memory. What kernels are held against.
#pragma once

#include "ops/dtype.h"

namespace moe::cpu {

struct Ceilings {
  double flops;  // a second, in products of this dtype
  double bytes;  // a second, read from memory
};

// With every thread of the pool, for `seconds` each.
Ceilings measure_ceilings(DType dtype, double seconds);

}  // namespace moe::cpu
