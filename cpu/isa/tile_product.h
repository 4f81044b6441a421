// The matrix product of one register tile: `Rows` rows of A times two registers of B. Included inside an
// anonymous namespace after V. Bound by FMAs: per unit, 2·Rows of them against 2 loads of B and Rows
// broadcasts of A.

template <class Units, int Rows>
void tile_product(const TileProductArgs& args) {
  constexpr int kPitch = kSlivers * V::kWidth;
  F left[Rows], right[Rows];
  MOE_UNROLLED
  for (int i = 0; i < Rows; ++i) {
    left[i] = args.accumulate ? V::load(args.c + i * kPitch) : V::zero();
    right[i] = args.accumulate ? V::load(args.c + i * kPitch + V::kWidth) : V::zero();
  }
  const float *a = args.a, *b0 = args.b0, *b1 = args.b1;
  Prefetcher ahead(args.ahead);
  for (int64_t unit = 0; unit < args.units; ++unit) {
    ahead.next();
    const F x0 = V::load(b0), x1 = V::load(b1);
    MOE_UNROLLED
    for (int i = 0; i < Rows; ++i) {
      const F y = V::set(a[i]);
      left[i] = Units::multiply_add(y, x0, left[i]);
      right[i] = Units::multiply_add(y, x1, right[i]);
    }
    a += Rows;
    b0 += V::kWidth;
    b1 += V::kWidth;
  }
  MOE_UNROLLED
  for (int i = 0; i < Rows; ++i) {
    V::store(args.c + i * kPitch, left[i]);
    V::store(args.c + i * kPitch + V::kWidth, right[i]);
  }
}

template <class Units, int... Minus1>
constexpr void fill_tile_products(TileProduct* table, std::integer_sequence<int, Minus1...>) {
  ((table[Minus1] = tile_product<Units, Minus1 + 1>), ...);
}
