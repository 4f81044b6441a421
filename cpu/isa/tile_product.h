// The matrix product of one register tile: `Rows` rows of A times two registers of B. Included inside an
// anonymous namespace after V, units.h and epilogues.h. Bound by FMAs: per unit, 2·Rows of them against 2
// loads of B and Rows broadcasts of A.

// Sums go from their registers to where they are streamed. Always inline: nobody may ask for the address of
// what is to stay in registers.
template <class Units, class T, int Rows>
[[gnu::always_inline]] inline void stream_sums(const StreamedTile& to, const F (&left)[Rows],
                                               const F (&right)[Rows]) {
  if constexpr (kTilePitch * sizeof(T) % kCacheLine == 0) {
    T* out = static_cast<T*>(to.out);
    const int64_t stride = to.stride;
    MOE_UNROLLED
    for (int i = 0; i < Rows; ++i, out += stride) {
      Units::stream(out, left[i], right[i]);
    }
  }
}

template <int Rows>
[[gnu::always_inline]] inline void store_tile(float* c, const F (&left)[Rows], const F (&right)[Rows]) {
  MOE_UNROLLED
  for (int i = 0; i < Rows; ++i, c += kTilePitch) {
    V::store(c, left[i]);
    V::store(c + V::kWidth, right[i]);
  }
}

template <class Units, int Rows>
void tile_product(const TileProductArgs& args) {
  F left[Rows], right[Rows];
  const float *a = args.a, *b0 = args.b0, *b1 = args.b1;
  PacedPrefetcher ahead(args.ahead, args.units * args.chains);
  const int end = args.first_chain + args.chains;
  for (int chain = args.first_chain;;) {
    const bool continues = chain == 0 && args.accumulate;
    MOE_UNROLLED
    for (int i = 0; i < Rows; ++i) {
      left[i] = continues ? V::load(args.c + i * kTilePitch) : V::zero();
      right[i] = continues ? V::load(args.c + i * kTilePitch + V::kWidth) : V::zero();
    }
    for (int64_t unit = 0; unit < args.units; ++unit) {
      ahead.turn();
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
    if (chain > 0) {
      MOE_UNROLLED
      for (int i = 0; i < Rows; ++i) {
        left[i] = V::add(V::load(args.c + i * kTilePitch), left[i]);
        right[i] = V::add(V::load(args.c + i * kTilePitch + V::kWidth), right[i]);
      }
    }
    if (++chain == end) break;
    store_tile<Rows>(args.c, left, right);
  }
  if (args.streamed.out != nullptr) {
    switch (args.streamed.dtype) {
      case DType::bfloat16:
        return stream_sums<Units, bfloat16, Rows>(args.streamed, left, right);
      case DType::float16:
        return stream_sums<Units, float16, Rows>(args.streamed, left, right);
      default:
        return stream_sums<Units, float, Rows>(args.streamed, left, right);
    }
  }
  store_tile<Rows>(args.c, left, right);
}

template <class Units, int... Minus1>
constexpr void fill_tile_products(TileProduct* table, std::integer_sequence<int, Minus1...>) {
  ((table[Minus1] = tile_product<Units, Minus1 + 1>), ...);
}
