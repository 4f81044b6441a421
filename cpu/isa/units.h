// The unit of 32 bits that panels are made of: one float, unless an instruction set adds another kind
// (isa_avx512bf16.cpp). Included inside an anonymous namespace after V.

struct FloatUnits {
  static constexpr int kSteps = 1;

  // Rows of consecutive steps are transposed in words of 32 bits, of so many units: two bfloat16 are widened
  // by one instruction each when they are needed, and only half as many registers are transposed.
  template <class T>
  static constexpr int kPerWord = std::is_same_v<T, bfloat16> ? 2 : 1;

  // Of a forward product by a B of such numbers: what chains_of() says, at compile time.
  template <class T>
  static constexpr int kChains = std::is_same_v<T, float> ? 1 : kMostChains;

  // Up to kWidth words of a row where steps of k lie side by side; zeros after the last step.
  template <class T>
  static F load_words(const T* row, int64_t steps) {
    if constexpr (kPerWord<T> == 2) {
      return steps >= 2 * V::kWidth ? V::load_pairs(row) : V::load_pairs_n(row, static_cast<int>(steps));
    } else {
      return steps >= V::kWidth ? V::load(row) : V::load_n(row, static_cast<int>(steps));
    }
  }
  template <class T>
  static F unit_of(F words, int unit) {
    if constexpr (kPerWord<T> == 2) return unit == 0 ? V::first_of_pairs(words) : V::second_of_pairs(words);
    return words;
  }
  // One unit of each of n lanes, from the rows of its steps of k (here one).
  template <class T>
  static F across(const T* row, const T* /*next*/, int n) {
    return n == V::kWidth ? V::load(row) : V::load_n(row, n);
  }
  // Of twice kWidth lanes.
  template <class T>
  static void across_tile(const T* row, const T* /*next*/, F (&units)[kSlivers]) {
    for (int i = 0; i < kSlivers; ++i) units[i] = V::load(row + i * V::kWidth);
  }
  // Of consecutive steps of k; of those that are left, fewer than a unit has (here none).
  static float unit(const float* steps) { return *steps; }
  static float last_unit(const float* steps) { return *steps; }

  template <class Register>
  static Register multiply_add(Register a, Register b, Register sum) {
    return V::fma(a, b, sum);
  }

  // Two registers of sums, to a row of a tile (see StreamedTile).
  template <class T>
  static void stream(T* out, F left, F right) {
    V::stream(out, left, right);
  }
};

// Before a loop over an array that is to stay in registers. Not under sanitizers, whose checks of every
// element would make minutes of it to compile.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MOE_UNROLLED
#else
#define MOE_UNROLLED _Pragma("GCC unroll 16")
#endif

// What such a loop calls with its registers must be a part of it.
#define MOE_INLINE_LAMBDA __attribute__((always_inline))
