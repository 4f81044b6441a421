// Kernels for AVX-512 F, BW, DQ, VL.
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "cpu/kernels.h"

namespace moe::cpu {
namespace {

#include "cpu/simd/avx512.h"

// 14 x 2 sums, 2 registers of B and 1 of A fill 31 of 32 registers.
constexpr int kTileRows = 14;

#include "cpu/isa/table.h"
// These build on the table's.
#include "cpu/isa/half_lines.h"
#include "cpu/isa/row_lanes.h"
#include "cpu/isa/row_quads.h"

constexpr Kernels make_avx512_kernels() {
  Kernels table = make_kernels<HalfLines>("avx512");
  add_row_lanes<FloatUnits, float>(table, PanelKind::floats, DType::float32);
  add_row_quads(table);
  return table;
}

}  // namespace

const Kernels kAvx512Kernels = make_avx512_kernels();

}  // namespace moe::cpu
