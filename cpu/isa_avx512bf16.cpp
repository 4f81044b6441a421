// Kernels for AVX-512 with BF16: bfloat16 products two steps of k at a time, or, where that is slow, of
// floats.
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "cpu/kernels.h"

namespace moe::cpu {
namespace {

#include "cpu/simd/avx512.h"

// As for AVX-512.
constexpr int kTileRows = 14;

#include "cpu/isa/table.h"
// These build on the table's.
#include "cpu/isa/half_lines.h"
#include "cpu/isa/row_lanes.h"
#include "cpu/isa/row_quads.h"

// Two bfloat16 of consecutive k a unit. The instruction adds the two products to the sum one after the other,
// rounding each, and takes denormals as zero.
struct BFloat16PairUnits {
  static constexpr int kSteps = 2;

  template <class T>
  static constexpr int kPerWord = 1;
  template <class T>
  static constexpr int kChains = 1;

  static F load_words(const bfloat16* row, int64_t steps) {
    return steps >= 2 * V::kWidth ? V::load_pairs(row) : V::load_pairs_n(row, static_cast<int>(steps));
  }
  template <class T>
  static F unit_of(F words, int /*unit*/) {
    return words;
  }
  static F across(const bfloat16* row, const bfloat16* next, int n) {
    const __m512i low = lanes(row, n);
    return _mm512_castsi512_ps(next == nullptr ? low
                                               : _mm512_or_si512(low, _mm512_slli_epi32(lanes(next, n), 16)));
  }
  static void across_tile(const bfloat16* row, const bfloat16* next, F (&units)[kSlivers]) {
    const __m512i order = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39,
                                           7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i low = _mm512_loadu_si512(row);
    const __m512i high = next == nullptr ? _mm512_setzero_si512() : _mm512_loadu_si512(next);
    units[0] = _mm512_castsi512_ps(_mm512_permutex2var_epi16(low, order, high));
    const __m512i rest = _mm512_add_epi16(order, _mm512_set1_epi16(16));
    units[1] = _mm512_castsi512_ps(_mm512_permutex2var_epi16(low, rest, high));
  }
  static float unit(const bfloat16* steps) {
    float pair;
    std::memcpy(&pair, steps, sizeof pair);
    return pair;
  }
  static float last_unit(const bfloat16* step) {
    const uint32_t bits = step->bits;
    float pair;
    std::memcpy(&pair, &bits, sizeof pair);
    return pair;
  }
  static F multiply_add(F a, F b, F sum) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
  static H multiply_add(H a, H b, H sum) { return _mm256_dpbf16_ps(sum, (__m256bh)a, (__m256bh)b); }

  template <class T>
  static void stream(T* out, F left, F right) {
    V::stream(out, left, right);
  }
  // No sum is denormal: the instruction makes those zero too.
  static void stream(bfloat16* out, F left, F right) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(out), (__m512i)_mm512_cvtne2ps_pbh(right, left));
  }

 private:
  static __m512i lanes(const bfloat16* row, int n) {
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(V::first(n), row));
  }
};

// Both round to bfloat16 by an instruction. This one is for processors that are slow at pairs: Intel's, whose
// ports half lines are made for.
constexpr Kernels make_float_kernels(const char* name) {
  Kernels table = make_kernels<HalfLines>(name);
  add_row_lanes<FloatUnits, float>(table, PanelKind::floats, DType::float32);
  add_row_quads(table);
  return table;
}

constexpr Kernels make_pair_kernels(const char* name) {
  Kernels table = make_kernels(name);
  add_row_lanes<FloatUnits, float>(table, PanelKind::floats, DType::float32);
  add_row_quads(table);
  add_products<BFloat16PairUnits>(table, PanelKind::bfloat16_pairs);
  add_source<WholeLines, BFloat16PairUnits, bfloat16>(table, PanelKind::bfloat16_pairs, DType::bfloat16);
  add_row_lanes<BFloat16PairUnits, bfloat16>(table, PanelKind::bfloat16_pairs, DType::bfloat16);
  return table;
}

}  // namespace

const Kernels kAvx512Bf16Kernels = make_pair_kernels("avx512bf16");
const Kernels kAvx512Bf16FloatKernels = make_float_kernels("avx512bf16-floats");

}  // namespace moe::cpu
