// Packing: operands in whatever layout and dtype become panels of 32-bit units, [unit][lane]. Included inside
// an anonymous namespace after V.
//
// Full registers are stored even where fewer lanes are wanted: what spills over is overwritten by the next
// store, because units are written in ascending and blocks of lanes in the order that makes it so.

// Stored rows are lanes: blocks of kWidth x kWidth words are transposed in registers, of which the `given`
// first rows are there.
template <class Units, class T>
inline void load_transposed(const T* const* rows, int given, int64_t step, int64_t steps,
                            F (&words)[V::kWidth]) {
  MOE_UNROLLED
  for (int i = 0; i < V::kWidth; ++i)
    words[i] = i < given ? Units::load_words(rows[i] + step, steps) : V::zero();
  V::transpose(words);
}

// Calls `visit(unit, register)` for the first `count` units of transposed words. Always inline: words are to
// stay in registers.
template <class Units, class T, class Visit>
[[gnu::always_inline]] inline void for_each_unit(const F (&words)[V::kWidth], int count, Visit visit) {
  constexpr int kPerWord = Units::template kPerWord<T>;
  MOE_UNROLLED
  for (int word = 0; word < V::kWidth; ++word) {
    MOE_UNROLLED
    for (int i = 0; i < kPerWord; ++i) {
      const int unit = word * kPerWord + i;
      if (unit == count) return;
      visit(unit, Units::template unit_of<T>(words[word], i));
    }
  }
}

// Of so many steps; the last may be a part of one.
template <class Units>
inline int units_of(int64_t steps) {
  return static_cast<int>((steps + Units::kSteps - 1) / Units::kSteps);
}

// Units, and steps of k, of a block of words.
template <class Units, class T>
inline constexpr int kBlockOfUnits = V::kWidth * Units::template kPerWord<T>;
template <class Units, class T>
inline constexpr int kBlockOfSteps = kBlockOfUnits<Units, T> * Units::kSteps;

template <class Units, class T>
void pack_k_contiguous(const PackArgs& args) {
  constexpr int kUnits = kBlockOfUnits<Units, T>, kSteps = kBlockOfSteps<Units, T>;
  for (int lane = (args.pitch - 1) / V::kWidth * V::kWidth; lane >= 0; lane -= V::kWidth) {
    const int64_t left = args.lanes - lane;
    const int given = static_cast<int>(left > 0 ? min_of(V::kWidth, left) : 0);
    const T* rows[V::kWidth];
    for (int i = 0; i < given; ++i) rows[i] = static_cast<const T*>(args.rows[lane + i]) + args.offset;
    float* out = args.panel + lane;
    const auto store = [&](int unit, F lanes) MOE_INLINE_LAMBDA { V::store(out + unit * args.pitch, lanes); };
    F words[V::kWidth];
    int64_t step = 0;
    // Constants where the block is whole, so that it stays in registers.
    for (; step + kSteps <= args.steps; step += kSteps, out += kUnits * args.pitch) {
      load_transposed<Units>(rows, given, step, kSteps, words);
      for_each_unit<Units, T>(words, kUnits, store);
    }
    if (step == args.steps) continue;
    load_transposed<Units>(rows, given, step, args.steps - step, words);
    for_each_unit<Units, T>(words, units_of<Units>(args.steps - step), store);
  }
}

// Stored rows are steps of k: lanes are copied as they lie. `load` makes a register of a lane's units from
// the rows of their steps; the last may have no next.
template <class Units, class T, class Load>
inline void pack_lanes(const PackArgs& args, Load load) {
  float* out = args.panel;
  for (int64_t step = 0; step < args.steps; step += Units::kSteps, out += args.pitch) {
    const bool has_next = Units::kSteps > 1 && step + 1 < args.steps;
    const T* row = static_cast<const T*>(args.rows[step]) + args.offset;
    const T* next = has_next ? static_cast<const T*>(args.rows[step + 1]) + args.offset : nullptr;
    for (int lane = 0; lane < args.pitch; lane += V::kWidth) {
      V::store(out + lane, load(row + lane, has_next ? next + lane : nullptr, args.lanes - lane));
    }
  }
}

// Both slivers of a tile in one go: of 16-bit rows they share their cache lines.
template <class Units, class T>
inline void pack_tile(const PackArgs& args) {
  float *out = args.panel, *second = args.panel + units_of<Units>(args.steps) * V::kWidth;
  for (int64_t step = 0; step < args.steps; step += Units::kSteps, out += V::kWidth, second += V::kWidth) {
    const bool has_next = Units::kSteps > 1 && step + 1 < args.steps;
    const T* row = static_cast<const T*>(args.rows[step]) + args.offset;
    const T* next = has_next ? static_cast<const T*>(args.rows[step + 1]) + args.offset : nullptr;
    F units[kSlivers];
    Units::across_tile(row, next, units);
    V::store(out, units[0]);
    V::store(second, units[1]);
  }
}

template <class Units, class T>
void pack_lanes_contiguous(const PackArgs& args) {
  if (args.lanes > args.pitch) {
    pack_tile<Units, T>(args);
  } else if (args.pitch == V::kWidth && args.lanes == V::kWidth) {
    pack_lanes<Units, T>(
        args, [](const T* row, const T* next, int) { return Units::across(row, next, V::kWidth); });
  } else {
    pack_lanes<Units, T>(args, [](const T* row, const T* next, int lanes) {
      return Units::across(row, next, static_cast<int>(min_of(V::kWidth, lanes)));
    });
  }
}
