// Stored rows transposed by half lines, eight words of each, instead of whole ones: for processors whose
// shuffles have one port for themselves and leave another idle (Intel's). Two half lines meet in a register
// as they are loaded, by either port, which spares a quarter of the shuffles; and there are registers enough
// for other arithmetic to go between the rest. Included inside an anonymous namespace after table.h, where V
// has a Transposition.

using Transposition = V::Transposition;
inline constexpr int kHalfLine = Transposition::kWords;

template <class Units, class T>
inline constexpr int kUnitsOfHalfLine = kHalfLine * Units::template kPerWord<T>;
template <class Units, class T>
inline constexpr int kStepsOfHalfLine = kUnitsOfHalfLine<Units, T> * Units::kSteps;

// Transposes the half lines of rows that begin at a step of k, and calls `meanwhile(i)` for each of the words
// that are replaced at last.
template <class T, class Meanwhile>
[[gnu::always_inline]] inline void transpose_half_lines(const T* const (&rows)[V::kWidth], int64_t step,
                                                        F (&words)[kHalfLine], Meanwhile meanwhile) {
  const auto load = [&](int a, int b)
                        MOE_INLINE_LAMBDA { return V::load_halves(rows[a] + step, rows[b] + step); };
  Transposition next;
  MOE_UNROLLED
  for (int i = 0; i < kHalfLine; ++i) {
    next.step(i, load);
    meanwhile(i);
  }
  MOE_UNROLLED
  for (int i = 0; i < kHalfLine; ++i) words[i] = next.words[i];
}

// Calls `visit(unit, register)` for the units of word i.
template <class Units, class T, class Visit>
[[gnu::always_inline]] inline void for_each_unit_of_word(const F (&words)[kHalfLine], int i, Visit visit) {
  constexpr int kPerWord = Units::template kPerWord<T>;
  MOE_UNROLLED
  for (int unit = 0; unit < kPerWord; ++unit)
    visit(i * kPerWord + unit, Units::template unit_of<T>(words[i], unit));
}

// Of the rows' half lines at a step of k, and where these end, of the next ones'; every other time the lines
// of half of the rows.
template <class Units, class T>
[[gnu::always_inline]] inline void ask_again(const T* const (&rows)[V::kWidth], int64_t step, int64_t steps,
                                             const NextRows& next) {
  constexpr int kRows = V::kWidth / 2;
  constexpr auto kSize = static_cast<int64_t>(sizeof(T));
  const int64_t first = step / kStepsOfHalfLine<Units, T> % 2 * kRows;
  const int64_t at = step + kBytesAskedAgain / V::kWidth / kSize;
  if (at < steps) {
    MOE_UNROLLED
    for (int i = 0; i < kRows; ++i) __builtin_prefetch(rows[first + i] + at);
  } else if (next.rows != nullptr) {
    const int64_t byte = next.begin + (at - steps) * kSize;
    MOE_UNROLLED
    for (int i = 0; i < kRows; ++i) __builtin_prefetch(static_cast<const char*>(next.rows[first + i]) + byte);
  }
}

// As few_rows_product(), but half lines are multiplied while the next ones are transposed. Out of order alone
// little of that overlaps: the multiply-adds of a block fill the scheduler.
template <class Units, class T, int Rows>
void half_line_product(const FewRowsArgs& args) {
  constexpr int kUnits = kUnitsOfHalfLine<Units, T>, kSteps = kStepsOfHalfLine<Units, T>;
  constexpr int kLines = V::kWidth / 2;  // of all rows, where a word is 32 bits of them
  F sums[Rows];
  load_sums(args, sums);
  const T* rows[V::kWidth];
  list_lanes(args, rows);
  const NextRows next(args.ahead);
  Prefetcher ahead(args.ahead);
  const float* a = args.a;
  const int64_t whole = args.steps / kSteps * kSteps;
  if (whole > 0) {
    F words[kHalfLine];
    const auto multiply = [&](int i) MOE_INLINE_LAMBDA {
      for_each_unit_of_word<Units, T>(words, i, [&](int unit, F b) MOE_INLINE_LAMBDA {
        MOE_UNROLLED
        for (int row = 0; row < Rows; ++row)
          sums[row] = Units::multiply_add(V::set(a[unit * Rows + row]), b, sums[row]);
      });
    };
    ahead.next_lines<kLines>();
    transpose_half_lines(rows, 0, words, [](int) {});
    for (int64_t step = kSteps; step < whole; step += kSteps, a += kUnits * Rows) {
      ahead.next_lines<kLines>();
      ask_again<Units>(rows, step, args.steps, next);
      transpose_half_lines(rows, step, words, multiply);
    }
    MOE_UNROLLED
    for (int i = 0; i < kHalfLine; ++i) multiply(i);
    a += kUnits * Rows;
  }
  add_rest<Units, T>(a, rows, whole, args.steps, sums);
  store_sums(args, sums);
}

// As pack_k_contiguous(), where all lanes are there and chains are those of such a B.
template <class Units, class T>
void pack_half_lines(const PackArgs& args) {
  constexpr int kPerWord = Units::template kPerWord<T>, kChains = Units::template kChains<T>;
  constexpr int kUnits = kUnitsOfHalfLine<Units, T>, kSteps = kStepsOfHalfLine<Units, T>;
  const bool all = args.pitch == V::kWidth && args.lanes == V::kWidth;
  const bool by_words = args.chains.together == kPerWord || kChains == 1;
  if (!all || args.chains.count != kChains || !by_words) return pack_k_contiguous<Units, T>(args);
  const int64_t units = padded_units(args.chains, units_of<Units>(args.steps));
  const T* rows[V::kWidth];
  for (int i = 0; i < V::kWidth; ++i) rows[i] = static_cast<const T*>(args.rows[i]) + args.offset;
  float* chains[kChains];
  for (int i = 0; i < kChains; ++i) chains[i] = args.panel + units / kChains * i * V::kWidth;
  const auto store = [&](int unit, F lanes) MOE_INLINE_LAMBDA {
    const int word = unit / kPerWord, in_chain = word / kChains * kPerWord + unit % kPerWord;
    V::store(chains[word % kChains] + in_chain * V::kWidth, lanes);
  };
  int64_t step = 0;
  for (; step + kSteps <= args.steps; step += kSteps) {
    F words[kHalfLine];
    transpose_half_lines(rows, step, words, [](int) {});
    MOE_UNROLLED
    for (int i = 0; i < kHalfLine; ++i) for_each_unit_of_word<Units, T>(words, i, store);
    for (float*& chain : chains) chain += kUnits / kChains * V::kWidth;
  }
  if (step == args.steps) return;
  F words[V::kWidth];
  load_transposed<Units>(rows, V::kWidth, step, args.steps - step, words);
  for_each_unit<Units, T>(words, static_cast<int>(units - step / Units::kSteps), store);
}

template <class Units, class T, int... Minus1>
constexpr void fill_half_line_products(FewRowsProduct* table, std::integer_sequence<int, Minus1...>) {
  ((table[Minus1] = half_line_product<Units, T, Minus1 + 1>), ...);
}

// In place of WholeLines.
struct HalfLines {
  static constexpr int kMostRowsBesideLanes = kTileRows;
  template <class Units, class T>
  static constexpr void add(Kernels& table, PanelKind kind, DType source) {
    table.pack_k_contiguous[static_cast<int>(kind)][static_cast<int>(source)] = pack_half_lines<Units, T>;
    if constexpr (Units::template kChains<T> == 1) {
      fill_half_line_products<Units, T>(
          table.few_rows_product[static_cast<int>(kind)][static_cast<int>(source)],
          std::make_integer_sequence<int, kTileRows>{});
    }
  }
};
