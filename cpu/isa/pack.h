// Packing: operands in whatever layout and dtype become panels of 32-bit units, [unit][lane]. Included inside
// an anonymous namespace after V.

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

// As many lanes as are wanted of a register.
inline void store_lanes(float* p, F lanes, int wanted) {
  if (wanted >= V::kWidth) {
    V::store(p, lanes);
  } else {
    V::store_n(p, lanes, wanted);
  }
}

// Units of a run in which each chain has its turn.
inline int64_t units_of_turn(const Chains& chains) {
  return int64_t{chains.count} * chains.together;
}
// Of all chains, where a run has so many.
inline int64_t padded_units(const Chains& chains, int64_t units) {
  const int64_t turn = units_of_turn(chains);
  return (units + turn - 1) / turn * turn;
}

// Where the units of a panel lie, in floats from its start. `Units` at a time are asked for, of which the
// first is a multiple.
template <int Units>
class UnitOffsets {
 public:
  UnitOffsets(const PackArgs& args, int64_t units) : pitch_(args.pitch) {
    const Chains& chains = args.chains;
    const int64_t chain = padded_units(chains, units) / chains.count;
    for (int unit = 0; unit < kPeriod; ++unit) {
      const int word = unit / chains.together;
      const int64_t in_chain = word / chains.count * chains.together + unit % chains.together;
      offsets_[unit] = (word % chains.count * chain + in_chain) * pitch_;
    }
    period_ = kPeriod / chains.count * pitch_;
  }

  // Of unit `first` + `i`.
  int64_t operator()(int64_t first, int i) const {
    if constexpr (Units == kPeriod) return first / kPeriod * period_ + offsets_[i];
    return (first + i) / kPeriod * period_ + offsets_[(first + i) % kPeriod];
  }

 private:
  // Whole turns, of two units a word at most.
  static constexpr int kPeriod = Units > 2 * kMostChains ? Units : 2 * kMostChains;

  const int64_t pitch_;
  int64_t period_ = 0;
  int64_t offsets_[kPeriod];
};

template <class Units, class T>
void pack_k_contiguous(const PackArgs& args) {
  constexpr int kUnits = kBlockOfUnits<Units, T>, kSteps = kBlockOfSteps<Units, T>;
  const int64_t units = units_of<Units>(args.steps), padded = padded_units(args.chains, units);
  const UnitOffsets<kUnits> offset(args, units);
  for (int lane = 0; lane < args.pitch; lane += V::kWidth) {
    const int64_t left = args.lanes - lane;
    const int given = static_cast<int>(left > 0 ? min_of(V::kWidth, left) : 0);
    const int wanted = args.pitch - lane;
    const T* rows[V::kWidth];
    for (int i = 0; i < given; ++i) rows[i] = static_cast<const T*>(args.rows[lane + i]) + args.offset;
    float* const out = args.panel + lane;
    int64_t unit = 0, step = 0;
    const auto store = [&](int i, F lanes)
                           MOE_INLINE_LAMBDA { store_lanes(out + offset(unit, i), lanes, wanted); };
    F words[V::kWidth];
    // Constants where the block is whole, so that it stays in registers.
    for (; step + kSteps <= args.steps; step += kSteps, unit += kUnits) {
      load_transposed<Units>(rows, given, step, kSteps, words);
      for_each_unit<Units, T>(words, kUnits, store);
    }
    for (; unit < padded; step += kSteps, unit += kUnits) {
      const int64_t steps = args.steps - step;
      load_transposed<Units>(rows, given, step, steps > 0 ? steps : 0, words);
      for_each_unit<Units, T>(words, static_cast<int>(min_of(kUnits, padded - unit)), store);
    }
  }
}

// Of kQuads rows, the units of kWidth words from a step on, zeros after the last step: quads[unit of a
// word][quad of words], a row a quad.
template <int Together, class T>
[[gnu::always_inline]] inline void load_row_quads(const T* const (&rows)[V::kQuads], int given, int64_t step,
                                                  int64_t steps, F (&quads)[Together][V::kQuads]) {
  const auto load = [&](int row, int64_t at) MOE_INLINE_LAMBDA {
    const int64_t left = steps - at;
    return left >= V::kWidth ? V::load(rows[row] + at)
           : left > 0        ? V::load_n(rows[row] + at, static_cast<int>(left))
                             : V::zero();
  };
  MOE_UNROLLED
  for (int row = 0; row < V::kQuads; ++row) {
    F units[2] = {V::zero(), V::zero()};
    if (row < given) {
      units[0] = load(row, step);
      if constexpr (Together == 2) V::deinterleave(units[0], load(row, step + V::kWidth), units[0], units[1]);
    }
    MOE_UNROLLED
    for (int unit = 0; unit < Together; ++unit) quads[unit][row] = units[unit];
  }
  MOE_UNROLLED
  for (int unit = 0; unit < Together; ++unit) V::transpose_quads(quads[unit]);
}

template <int Together, class T>
inline void pack_words_of(const PackArgs& args) {
  constexpr int kTurn = kMostChains * Together;
  const int64_t turns = padded_units(args.chains, args.steps) / kTurn;
  for (int first = 0; first < args.pitch; first += V::kQuads) {
    const auto given = static_cast<int>(min_of(V::kQuads, args.lanes - first));
    const auto wanted = static_cast<int>(min_of(V::kQuads, args.pitch - first));
    const T* rows[V::kQuads];
    for (int i = 0; i < V::kQuads; ++i)
      rows[i] = static_cast<const T*>(args.rows[i < given ? first + i : 0]) + args.offset;
    for (int64_t begin = 0; begin < turns; begin += V::kQuads) {
      F quads[Together][V::kQuads];
      load_row_quads<Together>(rows, given, begin * kTurn, args.steps, quads);
      MOE_UNROLLED
      for (int i = 0; i < V::kQuads; ++i) {
        if (begin + i == turns) break;
        MOE_UNROLLED
        for (int unit = 0; unit < Together; ++unit) {
          const int64_t row = ((begin + i) * Together + unit) * args.pitch + first;
          store_lanes(args.panel + row * kMostChains, quads[unit][i], wanted * kMostChains);
        }
      }
    }
  }
}

// Rows of floats, a word of each chain side by side.
template <class T>
void pack_words(const PackArgs& args) {
  args.chains.together == 2 ? pack_words_of<2, T>(args) : pack_words_of<1, T>(args);
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
      store_lanes(out + lane, load(row + lane, has_next ? next + lane : nullptr, args.lanes - lane),
                  args.pitch - lane);
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
