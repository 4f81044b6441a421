// Registers of 8 floats: AVX2, FMA, F16C. Included inside the anonymous namespace of a translation unit.

struct V {
  using F = __m256;
  static constexpr int kWidth = 8;
  // Of four lanes each.
  static constexpr int kQuads = 2;

  static F zero() { return _mm256_setzero_ps(); }
  static F set(float x) { return _mm256_set1_ps(x); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F x) { _mm256_storeu_ps(p, x); }

  static F load(const bfloat16* p) { return from_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static F load(const float16* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  // The first n elements of memory, zeros after them; n ≤ kWidth.
  static F load_n(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
  template <class T>
  static F load_n(const T* p, int n) {
    if (n == kWidth) return load(p);
    T whole[kWidth] = {};
    std::memcpy(whole, p, static_cast<size_t>(n) * sizeof(T));
    return load(whole);
  }
  // Two bfloat16 a lane, as they lie in memory; or the first n of them, zeros after those.
  static F load_pairs(const bfloat16* p) { return _mm256_loadu_ps(reinterpret_cast<const float*>(p)); }
  static F load_pairs_n(const bfloat16* p, int n) {
    bfloat16 whole[2 * kWidth] = {};
    std::memcpy(whole, p, static_cast<size_t>(n) * sizeof(bfloat16));
    return load_pairs(whole);
  }
  // One of each pair.
  static F first_of_pairs(F x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x), 16)); }
  static F second_of_pairs(F x) {
    return _mm256_castsi256_ps(
        _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(static_cast<int>(0xffff0000))));
  }
  static void store_n(float* p, F x, int n) { _mm256_maskstore_ps(p, first(n), x); }
  static void store_n(bfloat16* p, F x, int n) { store_half(p, to_bf16(x), n); }
  static void store_n(float16* p, F x, int n) { store_half(p, to_f16(x), n); }
  // x, and y behind it, around the caches: a whole cache line. Other stores wait for it at settle() alone.
  static void stream(float* p, F x, F y) {
    _mm256_stream_ps(p, x);
    _mm256_stream_ps(p + kWidth, y);
  }
  static void settle() { _mm_sfence(); }

  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  // Both return b where either is NaN.
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static F sqrt(F a) { return _mm256_sqrt_ps(a); }
  static F abs(F a) { return _mm256_andnot_ps(set(-0.0f), a); }
  // a > 0 ? b : c
  static F if_positive(F a, F b, F c) { return _mm256_blendv_ps(c, b, _mm256_cmp_ps(a, zero(), _CMP_GT_OQ)); }
  static F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // 2^n of an integral n in the range of normal exponents.
  static F pow2(F n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
  }
  static float sum(F a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }

  // Largest of n ints; n ≤ kWidth.
  static int32_t max_of(const int32_t* p, int n) {
    int32_t largest = INT32_MIN;
    for (int i = 0; i < n; ++i) largest = p[i] > largest ? p[i] : largest;
    return largest;
  }

  // Even and odd lanes of a, then b; and back.
  static void deinterleave(F a, F b, F& even, F& odd) {
    even = in_order(_mm256_shuffle_ps(a, b, 0x88));
    odd = in_order(_mm256_shuffle_ps(a, b, 0xdd));
  }
  static void interleave(F even, F odd, F& a, F& b) {
    const F low = _mm256_unpacklo_ps(even, odd), high = _mm256_unpackhi_ps(even, odd);
    a = _mm256_permute2f128_ps(low, high, 0x20);
    b = _mm256_permute2f128_ps(low, high, 0x31);
  }

  // Four words of 32 bits, or as many float16, widened; and behind them as many others.
  static F load_halves(const float* a, const float* b) { return joined(_mm_loadu_ps(a), _mm_loadu_ps(b)); }
  static F load_halves(const bfloat16* a, const bfloat16* b) {
    return load_halves(reinterpret_cast<const float*>(a), reinterpret_cast<const float*>(b));
  }
  static F load_halves(const float16* a, const float16* b) {
    return joined(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(a))),
                  _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(b))));
  }

  // The same quad everywhere.
  static F load_quad(const float* p) { return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p)); }
  // Lane i of each quad, in all of its lanes.
  template <int i>
  static F of_quads(F x) {
    return _mm256_permute_ps(x, 0x55 * i);
  }
  // Register i of kQuads becomes quad i of each.
  static void transpose_quads(F (&r)[kQuads]) {
    const F low = _mm256_permute2f128_ps(r[0], r[1], 0x20);
    r[1] = _mm256_permute2f128_ps(r[0], r[1], 0x31);
    r[0] = low;
  }
  // kQuads floats as the first lanes of quads, zeros in the others; and back.
  static F load_first_of_quads(const float* p) { return joined(_mm_load_ss(p), _mm_load_ss(p + 1)); }
  static void store_first_of_quads(float* p, F x) {
    _mm_store_ss(p, _mm256_castps256_ps128(x));
    _mm_store_ss(p + 1, _mm256_extractf128_ps(x, 1));
  }

  // Two rows of two quads, transposed in two steps between which other arithmetic can go.
  struct QuadTransposition {
    F words[kQuads];  // after the last step

    // Of the words at element `at` of each row, half of which are so many elements.
    template <class T>
    [[gnu::always_inline]] void step(int step, const T* const* rows, int64_t at, int64_t half) {
      at += step * half;
      words[step] = load_halves(rows[0] + at, rows[1] + at);
    }
  };

  static void transpose(F r[8]) {
    F t[8];
    for (int i = 0; i < 8; i += 2) {
      t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
      t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    F u[8];
    for (int i = 0; i < 8; i += 4) {
      u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
      u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
      u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
      u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {
      r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
      r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
  }

 private:
  static F joined(__m128 low, __m128 high) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(low), high, 1);
  }
  // Each half of a shuffle took from one half of both registers: a0 b0 a1 b1 become a0 a1 b0 b1, two lanes
  // each.
  static F in_order(F halves) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(halves), 0xd8));
  }
  static __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static F from_bf16(__m128i bits) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static __m128i to_f16(F x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }
  // Round to nearest even; NaN stays NaN.
  static __m128i to_bf16(F x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
    return _mm256_castsi256_si128(packed);
  }
  static void store_half(void* p, __m128i x, int n) {
    if (n == kWidth) {
      _mm_storeu_si128(static_cast<__m128i*>(p), x);
    } else {
      std::memcpy(p, &x, static_cast<size_t>(n) * 2);
    }
  }
};
