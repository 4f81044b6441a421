// Registers of 16 floats: AVX-512 F, BW, DQ, VL. Included inside the anonymous namespace of a translation
// unit.

struct V {
  using F = __m512;
  using Mask = __mmask16;
  static constexpr int kWidth = 16;
  // Of four lanes each.
  static constexpr int kQuads = 4;

  static Mask first(int n) { return static_cast<Mask>((1u << n) - 1); }

  static F zero() { return _mm512_setzero_ps(); }
  static F set(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }

  // The first n elements of memory, zeros after them; n ≤ kWidth.
  static F load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static F load_n(const bfloat16* p, int n) { return from_bf16(_mm256_maskz_loadu_epi16(first(n), p)); }
  static F load_n(const float16* p, int n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p)); }
  static F load(const bfloat16* p) {
    return from_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F load(const float16* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  // Two bfloat16 a lane, as they lie in memory; or the first n of them, zeros after those.
  static F load_pairs(const bfloat16* p) { return _mm512_loadu_ps(p); }
  static F load_pairs_n(const bfloat16* p, int n) {
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << n) - 1), p));
  }
  // One of each pair.
  static F first_of_pairs(F x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(x), 16)); }
  static F second_of_pairs(F x) {
    return _mm512_castsi512_ps(
        _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(static_cast<int>(0xffff0000))));
  }
  static void store_n(float* p, F x, int n) { _mm512_mask_storeu_ps(p, first(n), x); }
  static void store_n(bfloat16* p, F x, int n) { _mm256_mask_storeu_epi16(p, first(n), to_bf16(x)); }
  static void store_n(float16* p, F x, int n) { _mm256_mask_storeu_epi16(p, first(n), to_f16(x)); }
  // x, and y behind it, around the caches: whole cache lines. Other stores wait for it at settle() alone.
  static void stream(float* p, F x, F y) {
    _mm512_stream_ps(p, x);
    _mm512_stream_ps(p + kWidth, y);
  }
  static void stream(bfloat16* p, F x, F y) {
    _mm512_stream_si512(as_integers(p), joined(to_bf16(x), to_bf16(y)));
  }
  static void stream(float16* p, F x, F y) {
    _mm512_stream_si512(as_integers(p), joined(to_f16(x), to_f16(y)));
  }
  static void settle() { _mm_sfence(); }

  // Half a register: the lower lanes of one.
  using Half = __m256;
  static Half lower(F x) { return _mm512_castps512_ps256(x); }
  static F widen(Half x) { return _mm512_castps256_ps512(x); }
  static Half load_half(const float* p) { return _mm256_loadu_ps(p); }
  static void store_half(float* p, Half x) { _mm256_storeu_ps(p, x); }
  static Half fma(Half a, Half b, Half c) { return _mm256_fmadd_ps(a, b, c); }

  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  // Both return b where either is NaN.
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F sqrt(F a) { return _mm512_sqrt_ps(a); }
  static F abs(F a) { return _mm512_abs_ps(a); }
  // a > 0 ? b : c
  static F if_positive(F a, F b, F c) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, zero(), _CMP_GT_OQ), c, b);
  }
  static F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // 2^n of an integral n in the range of normal exponents.
  static F pow2(F n) {
    const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
  }
  static float sum(F a) { return _mm512_reduce_add_ps(a); }

  // Largest of n ints; n ≤ kWidth.
  static int32_t max_of(const int32_t* p, int n) {
    const __m512i lowest = _mm512_set1_epi32(INT32_MIN);
    return _mm512_reduce_max_epi32(_mm512_mask_loadu_epi32(lowest, first(n), p));
  }

  // Even and odd lanes of a, then b; and back.
  static void deinterleave(F a, F b, F& even, F& odd) {
    const __m512i first = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    even = _mm512_permutex2var_ps(a, first, b);
    odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(first, _mm512_set1_epi32(1)), b);
  }
  static void interleave(F even, F odd, F& a, F& b) {
    const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    a = _mm512_permutex2var_ps(even, first, odd);
    b = _mm512_permutex2var_ps(even, _mm512_add_epi32(first, _mm512_set1_epi32(8)), odd);
  }

  static void transpose(F r[16]) {
    F t[16];
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
      t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    // Each 128-bit lane now becomes a 4 x 4 block.
    for (int i = 0; i < 16; i += 4) {
      r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
      r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
      r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
      r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    // Then the 128-bit lanes themselves are a 4 x 4 matrix to transpose.
    for (int i = 0; i < 4; ++i) {
      const F a = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88), b = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
      const F c = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88),
              d = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
      t[i] = _mm512_shuffle_f32x4(a, c, 0x88);
      t[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
      t[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
      t[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
    for (int i = 0; i < 16; ++i) r[i] = t[i];
  }

  // The same quad everywhere.
  static F load_quad(const float* p) { return _mm512_broadcast_f32x4(_mm_loadu_ps(p)); }
  // Lane i of each quad, in all of its lanes.
  template <int i>
  static F of_quads(F x) {
    return _mm512_permute_ps(x, 0x55 * i);
  }
  // Register i of kQuads becomes quad i of each.
  static void transpose_quads(F (&r)[kQuads]) {
    const F a = _mm512_shuffle_f32x4(r[0], r[1], 0x88), b = _mm512_shuffle_f32x4(r[0], r[1], 0xdd);
    const F c = _mm512_shuffle_f32x4(r[2], r[3], 0x88), d = _mm512_shuffle_f32x4(r[2], r[3], 0xdd);
    r[0] = _mm512_shuffle_f32x4(a, c, 0x88);
    r[1] = _mm512_shuffle_f32x4(b, d, 0x88);
    r[2] = _mm512_shuffle_f32x4(a, c, 0xdd);
    r[3] = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
  // Within each quad, register i of four becomes lane i of each.
  static void transpose_lanes(F (&r)[4]) {
    const F a = _mm512_unpacklo_ps(r[0], r[1]), b = _mm512_unpackhi_ps(r[0], r[1]);
    const F c = _mm512_unpacklo_ps(r[2], r[3]), d = _mm512_unpackhi_ps(r[2], r[3]);
    r[0] = _mm512_shuffle_ps(a, c, 0x44);
    r[1] = _mm512_shuffle_ps(a, c, 0xee);
    r[2] = _mm512_shuffle_ps(b, d, 0x44);
    r[3] = _mm512_shuffle_ps(b, d, 0xee);
  }
  // Lane i of each quad as its first lane, zeros in the others.
  template <int i>
  static F first_of_quads(F x) {
    return _mm512_maskz_permute_ps(0x1111, x, 0x55 * i);
  }
  // A quad each of the first n rows, n ≥ 1, that lie so many floats apart; and back.
  static F load_rows_of_quads(const float* p, int64_t pitch, int n) {
    F x = _mm512_castps128_ps512(_mm_loadu_ps(p));
    if (n > 1) x = _mm512_insertf32x4(x, _mm_loadu_ps(p + pitch), 1);
    if (n > 2) x = _mm512_insertf32x4(x, _mm_loadu_ps(p + 2 * pitch), 2);
    if (n > 3) x = _mm512_insertf32x4(x, _mm_loadu_ps(p + 3 * pitch), 3);
    return x;
  }
  static void store_rows_of_quads(float* p, int64_t pitch, F x, int n) {
    _mm_storeu_ps(p, _mm512_castps512_ps128(x));
    if (n > 1) _mm_storeu_ps(p + pitch, _mm512_extractf32x4_ps(x, 1));
    if (n > 2) _mm_storeu_ps(p + 2 * pitch, _mm512_extractf32x4_ps(x, 2));
    if (n > 3) _mm_storeu_ps(p + 3 * pitch, _mm512_extractf32x4_ps(x, 3));
  }
  // kQuads floats as the first lanes of quads, zeros in the others; and back.
  static F load_first_of_quads(const float* p) { return _mm512_maskz_expandloadu_ps(0x1111, p); }
  static void store_first_of_quads(float* p, F x) {
    _mm_storeu_ps(p, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, x)));
  }

  // Four rows of four quads, transposed in four steps between which other arithmetic can go.
  struct QuadTransposition {
    F words[kQuads];  // after the last step

    // Of the words at element `at` of each row, half of which are so many elements.
    template <class T>
    [[gnu::always_inline]] void step(int step, const T* const* rows, int64_t at, int64_t half) {
      if (step % 2 == 0) {
        at += step / 2 * half;
        rows_[0] = load_halves(rows[0] + at, rows[1] + at);
        rows_[1] = load_halves(rows[2] + at, rows[3] + at);
      } else {
        words[step - 1] = _mm512_shuffle_f32x4(rows_[0], rows_[1], 0x88);
        words[step] = _mm512_shuffle_f32x4(rows_[0], rows_[1], 0xdd);
      }
    }

   private:
    F rows_[2];  // half a line of two rows each
  };

  // Sixteen rows by eight words of 32 bits, transposed in eight steps, so that other arithmetic can go
  // between them: shuffles have one of Intel's ports for themselves, and leave the other idle.
  struct Transposition {
    static constexpr int kWords = 8;
    F words[kWords];  // after the last step

    // `load(i, j)` gives the words of row i, and behind them those of row j.
    template <class Load>
    [[gnu::always_inline]] void step(int step, Load load) {
      const int half = step / 3 * 4;
      if (step >= 6) {
        for (int i = 2 * (step - 6); i < 2 * (step - 5); ++i) {
          words[i] = _mm512_shuffle_f32x4(quads_[i], quads_[i + 4], 0x88);
          words[i + 4] = _mm512_shuffle_f32x4(quads_[i], quads_[i + 4], 0xdd);
        }
      } else if (step % 3 < 2) {
        const int pair = step % 3 * 2, row = 2 * half + pair;
        const F even = load(row, row + 4), odd = load(row + 1, row + 5);
        pairs_[pair] = _mm512_unpacklo_ps(even, odd);
        pairs_[pair + 1] = _mm512_unpackhi_ps(even, odd);
      } else {
        quads_[half] = _mm512_shuffle_ps(pairs_[0], pairs_[2], 0x44);
        quads_[half + 1] = _mm512_shuffle_ps(pairs_[0], pairs_[2], 0xee);
        quads_[half + 2] = _mm512_shuffle_ps(pairs_[1], pairs_[3], 0x44);
        quads_[half + 3] = _mm512_shuffle_ps(pairs_[1], pairs_[3], 0xee);
      }
    }

   private:
    F pairs_[4], quads_[kWords];  // a word of two rows, and of four, side by side
  };
  // Of two rows, one behind the other: eight words of 32 bits, or as many float16, widened.
  static F load_halves(const float* a, const float* b) { return joined_halves(a, b); }
  static F load_halves(const bfloat16* a, const bfloat16* b) { return joined_halves(a, b); }
  static F load_halves(const float16* a, const float16* b) {
    const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a));
    const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b));
    return _mm512_cvtph_ps(_mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1));
  }

 private:
  static F joined_halves(const void* a, const void* b) {
    return _mm512_castsi512_ps(joined(_mm256_loadu_si256(static_cast<const __m256i*>(a)),
                                      _mm256_loadu_si256(static_cast<const __m256i*>(b))));
  }
  static F from_bf16(__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static __m256i to_f16(F x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }
  static __m512i joined(__m256i low, __m256i high) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
  template <class T>
  static __m512i* as_integers(T* p) {
    return reinterpret_cast<__m512i*>(p);
  }
  // Round to nearest even; NaN stays NaN.
  static __m256i to_bf16(F x) {
#ifdef __AVX512BF16__
    // Its instruction takes denormals as zero.
    constexpr int kDenormal = 0x20;
    if (__builtin_expect(_mm512_fpclass_ps_mask(x, kDenormal) == 0, 1)) return (__m256i)_mm512_cvtneps_pbh(x);
#endif
    return round_to_bf16(x);
  }
  static __m256i round_to_bf16(F x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i most = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
    const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
    __m512i rounded = _mm512_mask_add_epi32(most, odd, most, _mm512_set1_epi32(1));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    if (__builtin_expect(nan != 0, 0))
      rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
  }
};
