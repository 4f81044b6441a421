// Kernels for 64-bit Arm with NEON.
#include <arm_neon.h>

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "cpu/kernels.h"

namespace moe::cpu {
namespace {

#include "cpu/simd/portable.h"

// 12 x 2 sums, 2 registers of B and 1 of A fill 27 of 32 registers.
constexpr int kTileRows = 12;

#include "cpu/isa/table.h"

}  // namespace

const Kernels kNeonKernels = make_kernels("neon");

}  // namespace moe::cpu
