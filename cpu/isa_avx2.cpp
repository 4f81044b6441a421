// Kernels for AVX2 with FMA and F16C.
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "cpu/kernels.h"

namespace moe::cpu {
namespace {

#include "cpu/simd/avx2.h"

// 6 x 2 sums, 2 registers of B and 1 of A fill 15 of 16 registers.
constexpr int kTileRows = 6;

#include "cpu/isa/table.h"

}  // namespace

const Kernels kAvx2Kernels = make_kernels("avx2");

}  // namespace moe::cpu
