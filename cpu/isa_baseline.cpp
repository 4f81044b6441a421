// Kernels for any processor. On x86-64 that is SSE2: products and sums are rounded apart there.
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "cpu/kernels.h"

namespace moe::cpu {
namespace {

#include "cpu/simd/portable.h"

// 4 x 2 sums, 2 registers of B and 1 of A fill 11 of 16 registers.
constexpr int kTileRows = 4;

#include "cpu/isa/table.h"

}  // namespace

const Kernels kBaselineKernels = make_kernels("baseline");

}  // namespace moe::cpu
