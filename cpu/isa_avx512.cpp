// Kernels for AVX-512 F, BW, DQ, VL.
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "cpu/kernels.h"

namespace moe::cpu {
namespace {

#include "cpu/simd/avx512.h"

// 14 x 2 sums, 2 registers of B and 1 of A fill 31 of 32 registers.
constexpr int kTileRows = 14;

#include "cpu/isa/table.h"

}  // namespace

const Kernels kAvx512Kernels = make_kernels("avx512");

}  // namespace moe::cpu
