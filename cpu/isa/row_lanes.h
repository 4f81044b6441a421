// The product of a group's rows as lanes: registers hold one unit of A's rows, and B's units are broadcast
// from where they are stored, rows in which the steps of k lie side by side. So B is neither transposed nor
// packed. Bound by FMAs: per unit, kColumns for each register of rows, against a load of that and kColumns
// broadcasts. Included inside an anonymous namespace after prefetch.h, where V has halves of registers.

using H = V::Half;

// Columns of B at a time. Rows that lie a power of two apart share a set of the first-level cache, which
// holds eight lines.
constexpr int kColumns = 8;
static_assert(2 * kRowLanes == V::kWidth && kColumns == kRowLanes);

// The sums of kColumns columns: `Full` registers of rows for each, then half a register where `Halves` is 1.
template <int Full, int Halves>
struct RowSums {
  F full[Full + 1][kColumns];
  H half[Halves + 1][kColumns];
};

template <int Full, int Halves>
inline void clear_sums(RowSums<Full, Halves>& sums) {
  MOE_UNROLLED
  for (int column = 0; column < kColumns; ++column) {
    MOE_UNROLLED
    for (int i = 0; i < Full; ++i) sums.full[i][column] = V::zero();
    if constexpr (Halves > 0) sums.half[0][column] = V::lower(V::zero());
  }
}

// Adds one unit of each column, `b(column)`, times that of the rows.
template <class Units, int Full, int Halves, class Load>
inline void add_unit(const float* a, Load b, RowSums<Full, Halves>& sums) {
  F x[Full + 1];
  H y = {};
  MOE_UNROLLED
  for (int i = 0; i < Full; ++i) x[i] = V::load(a + i * V::kWidth);
  if constexpr (Halves > 0) y = V::load_half(a + Full * V::kWidth);
  MOE_UNROLLED
  for (int column = 0; column < kColumns; ++column) {
    const F z = V::set(b(column));
    MOE_UNROLLED
    for (int i = 0; i < Full; ++i) sums.full[i][column] = Units::multiply_add(x[i], z, sums.full[i][column]);
    if constexpr (Halves > 0)
      sums.half[0][column] = Units::multiply_add(y, V::lower(z), sums.half[0][column]);
  }
}

// kColumns columns of the rows of C that a register's lanes are, one column a register, and back.
inline void load_columns(const float* c, int64_t rows, F (&columns)[kColumns]) {
  F block[V::kWidth];
  MOE_UNROLLED
  for (int i = 0; i < V::kWidth; ++i)
    block[i] = i < rows ? V::widen(V::load_half(c + i * kSlivers * V::kWidth)) : V::zero();
  V::transpose(block);
  MOE_UNROLLED
  for (int i = 0; i < kColumns; ++i) columns[i] = block[i];
}
inline void store_columns(float* c, int64_t rows, const F (&columns)[kColumns]) {
  F block[V::kWidth];
  MOE_UNROLLED
  for (int i = 0; i < V::kWidth; ++i) block[i] = i < kColumns ? columns[i] : V::zero();
  V::transpose(block);
  MOE_UNROLLED
  for (int i = 0; i < V::kWidth; ++i)
    if (i < rows) V::store_half(c + i * kSlivers * V::kWidth, V::lower(block[i]));
}

template <int Full, int Halves>
inline void load_sums(const float* c, int64_t rows, RowSums<Full, Halves>& sums) {
  constexpr int kPitch = kSlivers * V::kWidth;
  MOE_UNROLLED
  for (int i = 0; i < Full; ++i) load_columns(c + i * V::kWidth * kPitch, rows - i * V::kWidth, sums.full[i]);
  if constexpr (Halves > 0) {
    F columns[kColumns];
    load_columns(c + Full * V::kWidth * kPitch, rows - Full * V::kWidth, columns);
    MOE_UNROLLED
    for (int i = 0; i < kColumns; ++i) sums.half[0][i] = V::lower(columns[i]);
  }
}
template <int Full, int Halves>
inline void store_sums(float* c, int64_t rows, const RowSums<Full, Halves>& sums) {
  constexpr int kPitch = kSlivers * V::kWidth;
  MOE_UNROLLED
  for (int i = 0; i < Full; ++i)
    store_columns(c + i * V::kWidth * kPitch, rows - i * V::kWidth, sums.full[i]);
  if constexpr (Halves > 0) {
    F columns[kColumns];
    MOE_UNROLLED
    for (int i = 0; i < kColumns; ++i) columns[i] = V::widen(sums.half[0][i]);
    store_columns(c + Full * V::kWidth * kPitch, rows - Full * V::kWidth, columns);
  }
}

template <class Units, class T, int Eights>
void row_lanes_product(const RowLanesArgs& args) {
  constexpr int kLanes = Eights * kRowLanes, kSteps = Units::kSteps;
  // Units of a cache line of each column.
  constexpr int kBlock = kCacheLine / sizeof(float);
  const FewRowsArgs& stored = args.stored;
  Prefetcher ahead(stored.ahead);
  for (int first = 0; first < stored.lanes; first += kColumns) {
    // Columns past the last repeat it: nobody reads their sums.
    const T* b[kColumns];
    for (int i = 0; i < kColumns; ++i)
      b[i] = static_cast<const T*>(stored.rows[min_of(first + i, stored.lanes - 1)]) + stored.offset;
    RowSums<Eights / 2, Eights % 2> sums;
    if (stored.accumulate) {
      load_sums(stored.c + first, args.rows, sums);
    } else {
      clear_sums(sums);
    }
    const float* a = stored.a;
    const int64_t whole = stored.steps / kSteps * kSteps;
    int64_t step = 0;
    for (; step + kBlock * kSteps <= whole; step += kBlock * kSteps) {
      ahead.next_lines<kColumns>();
      // The next lines into the first level: no prefetcher follows eight columns, and broadcasts wait for
      // each.
      MOE_UNROLLED
      for (int i = 0; i < kColumns; ++i) __builtin_prefetch(b[i] + step + kBlock * kSteps);
#pragma GCC unroll 4
      for (int i = 0; i < kBlock; ++i, a += kLanes)
        add_unit<Units>(a, [&](int column) { return Units::unit(b[column] + step + i * kSteps); }, sums);
    }
    for (; step < whole; step += kSteps, a += kLanes)
      add_unit<Units>(a, [&](int column) { return Units::unit(b[column] + step); }, sums);
    if (step < stored.steps)
      add_unit<Units>(a, [&](int column) { return Units::last_unit(b[column] + step); }, sums);
    store_sums(stored.c + first, args.rows, sums);
  }
}

template <class Units, class T, int... Minus1>
constexpr void fill_row_lanes(RowLanesProduct* table, std::integer_sequence<int, Minus1...>) {
  ((table[Minus1] = row_lanes_product<Units, T, Minus1 + 1>), ...);
}

template <class Units, class T>
constexpr void add_row_lanes(Kernels& table, PanelKind kind, DType source) {
  fill_row_lanes<Units, T>(table.row_lanes_product[static_cast<int>(kind)][static_cast<int>(source)],
                           std::make_integer_sequence<int, kMaxRowEights>{});
}
