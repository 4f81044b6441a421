// Kernels for AVX-512 with BF16: bfloat16 products two steps of k at a time.
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "cpu/kernels.h"

namespace moe::cpu {
namespace {

#include "cpu/simd/avx512.h"

// As for AVX-512.
constexpr int kTileRows = 14;

#include "cpu/isa/table.h"

// Two bfloat16 of consecutive k a unit. The instruction adds the two products to the sum one after the other,
// rounding each, and takes denormals as zero.
struct BFloat16PairUnits {
  static constexpr int kSteps = 2;

  static F load(const bfloat16* row, int64_t steps) {
    if (steps >= 2 * V::kWidth) return _mm512_loadu_ps(row);
    const auto first = static_cast<__mmask32>((uint64_t{1} << steps) - 1);
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(first, row));
  }
  static F across(const bfloat16* row, const bfloat16* next, int n) {
    if (n == V::kWidth && next != nullptr) return interleave(whole(row), whole(next));
    const __m512i low = lanes(row, n);
    return _mm512_castsi512_ps(next == nullptr ? low
                                               : _mm512_or_si512(low, _mm512_slli_epi32(lanes(next, n), 16)));
  }
  static F multiply_add(F a, F b, F sum) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }

 private:
  static __m256i whole(const bfloat16* row) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
  }
  static F interleave(__m256i even, __m256i odd) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23,
                                           7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(even), odd, 1);
    return _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, both));
  }
  static __m512i lanes(const bfloat16* row, int n) {
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(V::first(n), row));
  }
};

constexpr Kernels make_bfloat16_kernels() {
  Kernels table = make_kernels("avx512bf16");
  add_products<BFloat16PairUnits>(table, PanelKind::bfloat16_pairs);
  add_source<BFloat16PairUnits, bfloat16>(table, PanelKind::bfloat16_pairs, DType::bfloat16);
  return table;
}

}  // namespace

const Kernels kAvx512Bf16Kernels = make_bfloat16_kernels();

}  // namespace moe::cpu
