// The product of few rows where there are kMostChains chains: of a few columns of B as it is stored, rows in
// which the steps of k lie side by side, registers hold a quad of words of each, and each word of a quad is a
// chain's. So few columns are read side by side, and nothing but quads changes places on its way to the sums.
// Bound by the bytes of B. Included inside an anonymous namespace after pack.h and prefetch.h.

static_assert(kMostChains == 4 && V::kQuads * kMostChains == V::kWidth);

// Registers of columns that are multiplied together, for each load of A. More are read no faster.
inline constexpr int kColumnRegisters = 2;

// Elements of a register of words.
template <class T>
inline constexpr int kElementsOfWords = V::kWidth * (std::is_same_v<T, bfloat16> ? 2 : 1);

// The words of V::kQuads rows from a step on, of which no line is left; zeros after the last step.
template <class T>
inline V::QuadTransposition transposed_rest(const T* const* rows, int64_t step, int64_t left) {
  float words[V::kQuads][V::kWidth];
  const float* word_rows[V::kQuads];
  for (int i = 0; i < V::kQuads; ++i) {
    V::store(words[i], FloatUnits::load_words(rows[i] + step, left));
    word_rows[i] = words[i];
  }
  typename V::QuadTransposition rest;
  for (int quad = 0; quad < V::kQuads; ++quad) rest.step(quad, word_rows, 0, V::kWidth / 2);
  return rest;
}

// Stored rows of B: the columns of which registers hold a quad each, and those that come after.
template <class T>
struct QuadColumns {
  static constexpr int kColumns = kColumnRegisters * V::kQuads;

  // From lane `first` on. Lanes that no column has repeat the last one's: nobody reads their sums.
  QuadColumns(const FewRowsArgs& args, int first, const NextRows& following) {
    const auto row_of = [&](int lane) {
      return static_cast<const T*>(args.rows[min_of(lane, args.lanes - 1)]) + args.offset;
    };
    for (int i = 0; i < kColumns; ++i) {
      rows[i] = row_of(first + i);
      next[i] = rows[i];
      if (first + kColumns < args.lanes) {
        next[i] = row_of(first + kColumns + i);
      } else if (following.rows != nullptr) {
        next[i] = reinterpret_cast<const T*>(static_cast<const char*>(following.rows[i]) + following.begin);
      }
    }
  }

  // One part of V::kQuads of the lines that are multiplied soon after those at a step.
  [[gnu::always_inline]] void ask_again(int part, int64_t step, int64_t steps) const {
    if constexpr (V::kWidth * sizeof(float) == kCacheLine) {
      const int64_t at = step + kBytesAskedAgain / kColumns / static_cast<int64_t>(sizeof(T));
      const T* const* const from = at < steps ? rows : next;
      const int64_t element = at < steps ? at : at - steps;
      MOE_UNROLLED
      for (int i = 0; i < kColumnRegisters; ++i)
        __builtin_prefetch(from[part * kColumnRegisters + i] + element);
    }
  }

  const T* rows[kColumns];
  const T* next[kColumns];
};

// The chains' sums, one after the other; in the first lane of each quad.
inline F add_chains(F sums) {
  const F two = V::add(sums, V::template of_quads<1>(sums));
  const F three = V::add(two, V::template of_quads<2>(sums));
  return V::add(three, V::template of_quads<3>(sums));
}

template <class T, int Rows>
[[gnu::always_inline]] inline void quad_product(const FewRowsArgs& args, int first, const NextRows& following,
                                                Prefetcher& ahead) {
  using Units = FloatUnits;
  constexpr int kPerWord = Units::kPerWord<T>;
  constexpr int kLineSteps = V::kWidth * kPerWord;
  static_assert(kChainedUnits % kLineSteps == 0);
  const QuadColumns<T> columns(args, first, following);
  float* const c = args.c + first;
  const float* a = args.a;
  F words[kColumnRegisters][V::kQuads] = {}, sums[Rows][kColumnRegisters];
  typename V::QuadTransposition coming[kColumnRegisters];
  const auto transpose = [&](int quad, int64_t step) MOE_INLINE_LAMBDA {
    MOE_UNROLLED
    for (int i = 0; i < kColumnRegisters; ++i)
      coming[i].step(quad, columns.rows + i * V::kQuads, step, kElementsOfWords<T> / 2);
  };
  const auto take = [&]() MOE_INLINE_LAMBDA {
    MOE_UNROLLED
    for (int i = 0; i < kColumnRegisters; ++i) {
      MOE_UNROLLED
      for (int quad = 0; quad < V::kQuads; ++quad) words[i][quad] = coming[i].words[quad];
    }
  };
  const auto multiply = [&](int quad) MOE_INLINE_LAMBDA {
    MOE_UNROLLED
    for (int unit = 0; unit < kPerWord; ++unit) {
      F b[kColumnRegisters];
      MOE_UNROLLED
      for (int i = 0; i < kColumnRegisters; ++i) b[i] = Units::unit_of<T>(words[i][quad], unit);
      MOE_UNROLLED
      for (int row = 0; row < Rows; ++row, a += kMostChains) {
        const F x = V::load_quad(a);
        MOE_UNROLLED
        for (int i = 0; i < kColumnRegisters; ++i) sums[row][i] = V::fma(x, b[i], sums[row][i]);
      }
    }
  };
  const int64_t whole = args.steps / kLineSteps * kLineSteps;
  if (whole > 0) {
    MOE_UNROLLED
    for (int quad = 0; quad < V::kQuads; ++quad) transpose(quad, 0);
    take();
  }
  for (int64_t begin = 0; begin < args.steps; begin += kChainedUnits) {
    const int64_t end = min_of(begin + kChainedUnits, args.steps);
    MOE_UNROLLED
    for (int row = 0; row < Rows; ++row) {
      MOE_UNROLLED
      for (int i = 0; i < kColumnRegisters; ++i) {
        const bool none = begin == 0 && !args.accumulate;
        sums[row][i] = none ? V::zero() : V::load_first_of_quads(c + row * kSumsPitch + i * V::kQuads);
      }
    }
    int64_t step = begin;
    for (; step + kLineSteps <= end; step += kLineSteps) {
      // The words of the next line come while these are multiplied: out of order alone, little of that
      // overlaps.
      const int64_t next = step + kLineSteps < whole ? step + kLineSteps : step;
      MOE_UNROLLED
      for (int quad = 0; quad < V::kQuads; ++quad) {
        multiply(quad);
        transpose(quad, next);
        ahead.next_lines<kColumnRegisters>();
        columns.ask_again(quad, step, args.steps);
      }
      take();
    }
    if (step < end) {
      for (int i = 0; i < kColumnRegisters; ++i)
        coming[i] = transposed_rest(columns.rows + i * V::kQuads, step, end - step);
      take();
      MOE_UNROLLED
      for (int quad = 0; quad < V::kQuads; ++quad)
        if (quad * kMostChains * kPerWord < end - step) multiply(quad);
    }
    MOE_UNROLLED
    for (int row = 0; row < Rows; ++row) {
      MOE_UNROLLED
      for (int i = 0; i < kColumnRegisters; ++i)
        V::store_first_of_quads(c + row * kSumsPitch + i * V::kQuads, add_chains(sums[row][i]));
    }
  }
}

template <class T, int Rows>
void few_rows_by_quads(const FewRowsArgs& args) {
  const NextRows following(args.ahead);
  Prefetcher ahead(args.ahead);
  for (int first = 0; first < args.lanes; first += QuadColumns<T>::kColumns)
    quad_product<T, Rows>(args, first, following, ahead);
}

template <class T, int... Minus1>
constexpr void fill_quads(FewRowsProduct* table, std::integer_sequence<int, Minus1...>) {
  ((table[Minus1] = few_rows_by_quads<T, Minus1 + 1>), ...);
}
