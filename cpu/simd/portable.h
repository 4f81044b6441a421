// Registers of 4 floats in the compiler's vector extension: any processor, and the structure that NEON
// shares. Included inside the anonymous namespace of a translation unit.

struct V {
  typedef float F __attribute__((vector_size(16)));
  typedef int32_t I __attribute__((vector_size(16)));
  typedef uint32_t U __attribute__((vector_size(16)));
  static constexpr int kWidth = 4;
  // Of four lanes each.
  static constexpr int kQuads = 1;

  static F zero() { return F{}; }
  static F set(float x) { return F{x, x, x, x}; }

  template <class T>
  static F load(const T* p) {
    return F{widen(p[0]), widen(p[1]), widen(p[2]), widen(p[3])};
  }
  static F load(const float* p) {
    F x;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  static void store(float* p, F x) { std::memcpy(p, &x, sizeof x); }
  // The first n elements of memory, zeros after them; n ≤ kWidth.
  template <class T>
  static F load_n(const T* p, int n) {
    F x = zero();
    for (int i = 0; i < n; ++i) x[i] = widen(p[i]);
    return x;
  }
  // Two bfloat16 a lane, as they lie in memory; or the first n of them, zeros after those.
  static F load_pairs(const bfloat16* p) { return load_pairs_n(p, 2 * kWidth); }
  static F load_pairs_n(const bfloat16* p, int n) {
    F x = zero();
    std::memcpy(&x, p, static_cast<size_t>(n) * sizeof(bfloat16));
    return x;
  }
  // One of each pair; a lane's lower bits come first in memory.
  static F first_of_pairs(F x) { return (F)((U)x << 16); }
  static F second_of_pairs(F x) { return (F)((U)x & 0xffff0000); }
  template <class T>
  static void store_n(T* p, F x, int n) {
    for (int i = 0; i < n; ++i) narrow(x[i], p[i]);
  }
  // Other instruction sets can store whole cache lines around the caches.
  static void stream(float* p, F x, F y) {
    store(p, x);
    store(p + kWidth, y);
  }
  static void settle() {}

#if defined(__aarch64__)
  static F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static F round(F a) { return vrndnq_f32(a); }
#else
  static F fma(F a, F b, F c) { return a * b + c; }
  // Adding and taking away 1.5 · 2^23 rounds to nearest even where |a| < 2^22.
  static F round(F a) {
    const F magic = set(12582912.0f);
    return (a + magic) - magic;
  }
#endif
  static F add(F a, F b) { return a + b; }
  static F sub(F a, F b) { return a - b; }
  static F mul(F a, F b) { return a * b; }
  static F div(F a, F b) { return a / b; }
  // Both return b where either is NaN.
  static F max(F a, F b) { return a > b ? a : b; }
  static F min(F a, F b) { return a < b ? a : b; }
  static F sqrt(F a) {
    return F{__builtin_sqrtf(a[0]), __builtin_sqrtf(a[1]), __builtin_sqrtf(a[2]), __builtin_sqrtf(a[3])};
  }
  static F abs(F a) { return (F)((I)a & 0x7fffffff); }
  // a > 0 ? b : c
  static F if_positive(F a, F b, F c) { return a > zero() ? b : c; }
  // 2^n of an integral n in the range of normal exponents.
  static F pow2(F n) { return (F)((__builtin_convertvector(n, I) + 127) << 23); }
  static float sum(F a) { return (a[0] + a[2]) + (a[1] + a[3]); }

  // Largest of n ints; n ≤ kWidth.
  static int32_t max_of(const int32_t* p, int n) {
    int32_t largest = INT32_MIN;
    for (int i = 0; i < n; ++i) largest = p[i] > largest ? p[i] : largest;
    return largest;
  }

  static F load_words(const float* p) { return load(p); }
  static F load_words(const bfloat16* p) { return load_pairs(p); }
  static F load_words(const float16* p) { return load(p); }

  // A register is one quad.
  static F load_quad(const float* p) { return load(p); }
  // Lane i of each quad, in all of its lanes.
  template <int i>
  static F of_quads(F x) {
    return set(x[i]);
  }
  // Register i of kQuads becomes quad i of each: a register is one.
  static void transpose_quads(F (&)[kQuads]) {}
  // kQuads floats as the first lanes of quads, zeros in the others; and back.
  static F load_first_of_quads(const float* p) { return F{*p}; }
  static void store_first_of_quads(float* p, F x) { *p = x[0]; }

  // There is nothing to transpose.
  struct QuadTransposition {
    F words[kQuads];  // after the last step

    // Of the words at element `at` of each row.
    template <class T>
    [[gnu::always_inline]] void step(int /*step*/, const T* const* rows, int64_t at, int64_t /*half*/) {
      words[0] = load_words(rows[0] + at);
    }
  };

  // Even and odd lanes of a, then b; and back.
  static void deinterleave(F a, F b, F& even, F& odd) {
    even = __builtin_shufflevector(a, b, 0, 2, 4, 6);
    odd = __builtin_shufflevector(a, b, 1, 3, 5, 7);
  }
  static void interleave(F even, F odd, F& a, F& b) {
    a = __builtin_shufflevector(even, odd, 0, 4, 1, 5);
    b = __builtin_shufflevector(even, odd, 2, 6, 3, 7);
  }

  static void transpose(F r[4]) {
    const F a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5),
            b = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
    const F c = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5),
            d = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
    r[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
    r[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    r[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
    r[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
  }

 private:
  static uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
  }
  static float float_of(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  }

  static float widen(float x) { return x; }
  static float widen(bfloat16 x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }
  // Shifting the 15 exponent and mantissa bits into place leaves the exponent 112 too small; a product
  // repairs it, for denormals too.
  static float widen(float16 x) {
    const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16;
    const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fff) << 13;
    if (magnitude >= 0x0f800000) return float_of(sign | 0x70000000 | magnitude);  // infinity, NaN
    return float_of(sign | bits_of(float_of(magnitude) * 0x1p112f));
  }

  static void narrow(float x, float& out) { out = x; }
  static void narrow(float x, bfloat16& out) {
    const uint32_t bits = bits_of(x);
    const uint32_t rounded = x != x ? bits | 0x400000 : bits + 0x7fff + ((bits >> 16) & 1);
    out.bits = static_cast<uint16_t>(rounded >> 16);
  }
  static void narrow(float x, float16& out) {
    const uint32_t sign = (bits_of(x) >> 16) & 0x8000;
    const uint32_t magnitude = bits_of(x) & 0x7fffffff;
    uint32_t half;
    if (magnitude > 0x7f800000) {
      half = 0x7e00 | ((magnitude >> 13) & 0x3ff);  // NaN
    } else if (magnitude >= 0x477ff000) {
      half = 0x7c00;  // rounds to infinity
    } else if (magnitude >= 0x38800000) {
      half = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    } else {
      // Denormal: adding one half aligns the last kept bit with the last bit of the sum, which rounds to
      // nearest even.
      half = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000;
    }
    out.bits = static_cast<uint16_t>(sign | half);
  }
};
