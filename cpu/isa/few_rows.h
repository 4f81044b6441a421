// The product of few rows: B's columns, stored rows in which the steps of k lie side by side, are transposed
// in registers on their way to the sums and never become a panel. Bound by the bytes of B. Included inside an
// anonymous namespace after pack.h and prefetch.h.

// Adds `count` units of B to the sums, in ascending order.
template <class Units, class T, int Rows>
inline void add_units(const float* a, const F (&words)[V::kWidth], int count, F (&sums)[Rows]) {
  for_each_unit<Units, T>(words, count, [&](int unit, F b) MOE_INLINE_LAMBDA {
    MOE_UNROLLED
    for (int i = 0; i < Rows; ++i) sums[i] = Units::multiply_add(V::set(a[unit * Rows + i]), b, sums[i]);
  });
}

// Lanes that no column has repeat the last one's: nobody reads their sums.
template <class T>
inline void list_lanes(const FewRowsArgs& args, const T* (&rows)[V::kWidth]) {
  for (int i = 0; i < V::kWidth; ++i)
    rows[i] = static_cast<const T*>(args.rows[min_of(i, args.lanes - 1)]) + args.offset;
}

inline constexpr int kSumsPitch = kSlivers * V::kWidth;
template <int Rows>
inline void load_sums(const FewRowsArgs& args, F (&sums)[Rows]) {
  MOE_UNROLLED
  for (int i = 0; i < Rows; ++i) sums[i] = args.accumulate ? V::load(args.c + i * kSumsPitch) : V::zero();
}
template <int Rows>
inline void store_sums(const FewRowsArgs& args, const F (&sums)[Rows]) {
  MOE_UNROLLED
  for (int i = 0; i < Rows; ++i) V::store(args.c + i * kSumsPitch, sums[i]);
}

// Adds the steps of k that are left after the last whole block.
template <class Units, class T, int Rows>
inline void add_rest(const float* a, const T* const (&rows)[V::kWidth], int64_t step, int64_t steps,
                     F (&sums)[Rows]) {
  if (step == steps) return;
  F words[V::kWidth];
  load_transposed<Units>(rows, V::kWidth, step, steps - step, words);
  add_units<Units, T, Rows>(a, words, units_of<Units>(steps - step), sums);
}

template <class Units, class T, int Rows>
void few_rows_product(const FewRowsArgs& args) {
  constexpr int kUnits = kBlockOfUnits<Units, T>, kSteps = kBlockOfSteps<Units, T>;
  F sums[Rows];
  load_sums(args, sums);
  const T* rows[V::kWidth];
  list_lanes(args, rows);
  Prefetcher ahead(args.ahead);
  const float* a = args.a;
  F words[V::kWidth];
  int64_t step = 0;
  for (; step + kSteps <= args.steps; step += kSteps, a += kUnits * Rows) {
    ahead.next_lines<V::kWidth>();
    load_transposed<Units>(rows, V::kWidth, step, kSteps, words);
    add_units<Units, T, Rows>(a, words, kUnits, sums);
  }
  add_rest<Units, T>(a, rows, step, args.steps, sums);
  store_sums(args, sums);
}

template <class Units, class T, int... Minus1>
constexpr void fill_few_rows(FewRowsProduct* table, std::integer_sequence<int, Minus1...>) {
  ((table[Minus1] = few_rows_product<Units, T, Minus1 + 1>), ...);
}
