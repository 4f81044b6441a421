// The product of a group's rows where there are kMostChains chains: as in row_lanes.h A's rows are lanes, but
// four to a row, one for each chain; and B's units are broadcast a quad at a time. For that B's columns are
// widened, a few of them over a piece of k, in which they stay in the first-level cache for all rows. Bound
// by FMAs: per quad, kQuadColumns for each register of rows, against a load of that and kQuadColumns
// broadcasts. Included inside an anonymous namespace after quads.h.

// Registers of rows times columns are sums: with as many registers of A and one of B, 28 of 32.
constexpr int kMostRowRegisters = 3, kQuadColumns = 8;
// With the same piece of as many rows as are multiplied at once, less than half of a first-level cache of 48
// KB: another thread of the core may want the rest.
constexpr int64_t kPieceUnits = 256;
static_assert(kChainedUnits % kPieceUnits == 0 && kQuadColumns % V::kQuads == 0);

// The columns of one piece: units[quad of words][unit of the word][column][chain].
struct WidenedColumns {
  float units[kPieceUnits * kQuadColumns];
};

// Returns how many quads of units each column has.
template <class T>
inline int64_t widen_columns(const T* const (&columns)[kQuadColumns], int64_t begin, int64_t steps,
                             WidenedColumns& out) {
  constexpr int kPerWord = FloatUnits::kPerWord<T>, kLineSteps = V::kWidth * kPerWord;
  constexpr int kQuadSteps = kMostChains * kPerWord;
  for (int first = 0; first < kQuadColumns; first += V::kQuads) {
    const T* const* const rows = columns + first;
    float* to = out.units + first * kMostChains;
    const auto store = [&](const V::QuadTransposition& from, int64_t quads) MOE_INLINE_LAMBDA {
      MOE_UNROLLED
      for (int quad = 0; quad < V::kQuads; ++quad) {
        if (quad == quads) break;
        MOE_UNROLLED
        for (int unit = 0; unit < kPerWord; ++unit, to += kQuadColumns * kMostChains)
          V::store(to, FloatUnits::unit_of<T>(from.words[quad], unit));
      }
    };
    int64_t step = 0;
    for (; step + kLineSteps <= steps; step += kLineSteps) {
      V::QuadTransposition line;
      MOE_UNROLLED
      for (int quad = 0; quad < V::kQuads; ++quad)
        line.step(quad, rows, begin + step, kElementsOfWords<T> / 2);
      store(line, V::kQuads);
    }
    const int64_t left = steps - step;
    if (left > 0) store(transposed_rest(rows, begin + step, left), (left + kQuadSteps - 1) / kQuadSteps);
  }
  return (steps + kQuadSteps - 1) / kQuadSteps * kPerWord;
}

// One piece of the product of some columns with some rows.
struct QuadPiece {
  const float* a;   // of the first register of rows
  int64_t a_pitch;  // from one register's panel to the next
  const float* b;
  int64_t quads;  // of units
  float* c;
  int rows;
  F* sums;            // where they are between pieces
  bool accumulate;    // to c
  bool begins, ends;  // chains
};

template <int Registers>
using QuadSums = F[Registers][kQuadColumns];

template <int Registers, class Visit>
[[gnu::always_inline]] inline void for_each_sum(QuadSums<Registers>& sums, Visit visit) {
  MOE_UNROLLED
  for (int i = 0; i < Registers; ++i) {
    MOE_UNROLLED
    for (int column = 0; column < kQuadColumns; ++column) visit(i * kQuadColumns + column, sums[i][column]);
  }
}

// Calls visit(c, rows, sums) for each register of rows and four columns.
template <int Registers, class Visit>
[[gnu::always_inline]] inline void for_each_four_columns(const QuadPiece& piece, QuadSums<Registers>& sums,
                                                         Visit visit) {
  MOE_UNROLLED
  for (int i = 0; i < Registers; ++i) {
    const int row = i * V::kQuads;
    MOE_UNROLLED
    for (int column = 0; column < kQuadColumns; column += 4)
      visit(piece.c + row * kSumsPitch + column, piece.rows - row, &sums[i][column]);
  }
}

// The first chains continue the sums in c.
template <int Registers>
[[gnu::always_inline]] inline void begin_chains(const QuadPiece& piece, QuadSums<Registers>& sums) {
  for_each_sum<Registers>(sums, [](int, F& sum) MOE_INLINE_LAMBDA { sum = V::zero(); });
  if (!piece.accumulate) return;
  for_each_four_columns<Registers>(piece, sums, [](const float* c, int rows, F* of) MOE_INLINE_LAMBDA {
    const F before = V::load_rows_of_quads(c, kSumsPitch, rows);
    of[0] = V::first_of_quads<0>(before);
    of[1] = V::first_of_quads<1>(before);
    of[2] = V::first_of_quads<2>(before);
    of[3] = V::first_of_quads<3>(before);
  });
}

// The chains' sums, one after the other.
template <int Registers>
[[gnu::always_inline]] inline void end_chains(const QuadPiece& piece, QuadSums<Registers>& sums) {
  for_each_four_columns<Registers>(piece, sums, [](float* c, int rows, F* of) MOE_INLINE_LAMBDA {
    F chains[kMostChains] = {of[0], of[1], of[2], of[3]};
    V::transpose_lanes(chains);
    const F sum = V::add(V::add(V::add(chains[0], chains[1]), chains[2]), chains[3]);
    V::store_rows_of_quads(c, kSumsPitch, sum, rows);
  });
}

template <int Registers>
[[gnu::always_inline]] inline void add_piece(const QuadPiece& piece, PacedPrefetcher& ahead) {
  QuadSums<Registers> sums;
  if (piece.begins) {
    begin_chains<Registers>(piece, sums);
  } else {
    for_each_sum<Registers>(sums, [&](int index, F& sum) MOE_INLINE_LAMBDA { sum = piece.sums[index]; });
  }
  const float *a = piece.a, *b = piece.b;
  // Not unrolled: GCC would move sums from register to register.
#pragma GCC unroll 1
  for (int64_t quad = 0; quad < piece.quads; ++quad, a += V::kWidth, b += kQuadColumns * kMostChains) {
    ahead.turn();
    F x[Registers];
    MOE_UNROLLED
    for (int i = 0; i < Registers; ++i) x[i] = V::load(a + i * piece.a_pitch);
    MOE_UNROLLED
    for (int column = 0; column < kQuadColumns; ++column) {
      const F y = V::load_quad(b + column * kMostChains);
      MOE_UNROLLED
      for (int i = 0; i < Registers; ++i) sums[i][column] = V::fma(x[i], y, sums[i][column]);
    }
  }
  if (piece.ends) {
    end_chains<Registers>(piece, sums);
  } else {
    for_each_sum<Registers>(sums, [&](int index, F& sum) MOE_INLINE_LAMBDA { piece.sums[index] = sum; });
  }
}

// In which registers of rows are taken.
inline int parts_of(int registers) {
  return (registers + kMostRowRegisters - 1) / kMostRowRegisters;
}

// Evenly: a last one alone would waste its loads of B.
template <class Visit>
[[gnu::always_inline]] inline void for_each_part(int registers, Visit visit) {
  const int parts = parts_of(registers);
  for (int part = 0, begin = 0; part < parts; ++part) {
    const int count = (registers + part) / parts;
    visit(begin, count);
    begin += count;
  }
}

template <class T>
void row_quads_product(const RowLanesArgs& args) {
  const FewRowsArgs& stored = args.stored;
  const int registers = (args.rows + V::kQuads - 1) / V::kQuads;
  const int groups = (stored.lanes + kQuadColumns - 1) / kQuadColumns;
  const int64_t turn = kMostChains * FloatUnits::kPerWord<T>;
  const int64_t units = (stored.steps + turn - 1) / turn * turn;
  PacedPrefetcher ahead(stored.ahead, units / kMostChains * groups * parts_of(registers));
  WidenedColumns widened;
  F sums[kMaxQuadRows / V::kQuads][kQuadColumns];
  for (int first = 0; first < stored.lanes; first += kQuadColumns) {
    // Columns past the last repeat it: nobody reads their sums.
    const T* columns[kQuadColumns];
    for (int i = 0; i < kQuadColumns; ++i)
      columns[i] = static_cast<const T*>(stored.rows[min_of(first + i, stored.lanes - 1)]) + stored.offset;
    for (int64_t begin = 0; begin < stored.steps; begin += kPieceUnits) {
      const int64_t end = min_of(begin + kPieceUnits, stored.steps);
      const int64_t quads = widen_columns(columns, begin, end - begin, widened);
      for_each_part(registers, [&](int at, int count) MOE_INLINE_LAMBDA {
        const QuadPiece piece = {.a = stored.a + (at * units + begin) * V::kQuads,
                                 .a_pitch = units * V::kQuads,
                                 .b = widened.units,
                                 .quads = quads,
                                 .c = stored.c + at * V::kQuads * kSumsPitch + first,
                                 .rows = args.rows - at * V::kQuads,
                                 .sums = sums[at],
                                 .accumulate = stored.accumulate || begin > 0,
                                 .begins = begin % kChainedUnits == 0,
                                 .ends = end == stored.steps || end % kChainedUnits == 0};
        if (count == 1) return add_piece<1>(piece, ahead);
        if (count == 2) return add_piece<2>(piece, ahead);
        static_assert(kMostRowRegisters == 3);
        add_piece<3>(piece, ahead);
      });
    }
  }
}

template <class T>
constexpr void add_row_quads(Kernels& table, DType source) {
  static_assert(FloatUnits::kChains<T> == kMostChains);
  table.row_quads_product[static_cast<int>(source)] = row_quads_product<T>;
}
constexpr void add_row_quads(Kernels& table) {
  add_row_quads<bfloat16>(table, DType::bfloat16);
  add_row_quads<float16>(table, DType::float16);
}
