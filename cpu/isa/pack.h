// Packing: operands in whatever layout and dtype become panels of 32-bit units, [unit][lane]. Included inside
// an anonymous namespace after V.
//
// Full registers are stored even where fewer lanes are wanted: what spills over is overwritten by the next
// store, because units are written in ascending and blocks of lanes in the order that makes it so.

// Stored rows are lanes: blocks of kWidth x kWidth units are transposed in registers, of which the `given`
// first rows are there.
template <class Units, class T>
inline void load_transposed(const T* const* rows, int given, int64_t step, int64_t steps,
                            F (&block)[V::kWidth]) {
  MOE_UNROLLED
  for (int i = 0; i < V::kWidth; ++i) block[i] = i < given ? Units::load(rows[i] + step, steps) : V::zero();
  V::transpose(block);
}

template <class Units, class T>
void pack_k_contiguous(const PackArgs& args) {
  constexpr int kSteps = Units::kSteps, kBlock = V::kWidth * kSteps;
  for (int lane = (args.pitch - 1) / V::kWidth * V::kWidth; lane >= 0; lane -= V::kWidth) {
    const int64_t left = args.lanes - lane;
    const int given = static_cast<int>(left > 0 ? min_of(V::kWidth, left) : 0);
    const T* rows[V::kWidth];
    for (int i = 0; i < given; ++i) rows[i] = static_cast<const T*>(args.rows[lane + i]) + args.offset;
    float* out = args.panel + lane;
    F block[V::kWidth];
    int64_t step = 0;
    // Constants where the block is whole, so that it stays in registers.
    for (; step + kBlock <= args.steps; step += kBlock, out += V::kWidth * args.pitch) {
      load_transposed<Units>(rows, given, step, kBlock, block);
      MOE_UNROLLED
      for (int i = 0; i < V::kWidth; ++i) V::store(out + i * args.pitch, block[i]);
    }
    if (step == args.steps) continue;
    load_transposed<Units>(rows, given, step, args.steps - step, block);
    const int64_t units = (args.steps - step + kSteps - 1) / kSteps;
    for (int64_t i = 0; i < units; ++i) V::store(out + i * args.pitch, block[i]);
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
  const int64_t units = (args.steps + Units::kSteps - 1) / Units::kSteps;
  float *out = args.panel, *second = args.panel + units * V::kWidth;
  for (int64_t step = 0; step < args.steps; step += Units::kSteps, out += V::kWidth, second += V::kWidth) {
    const bool has_next = Units::kSteps > 1 && step + 1 < args.steps;
    const T* row = static_cast<const T*>(args.rows[step]) + args.offset;
    const T* next = has_next ? static_cast<const T*>(args.rows[step + 1]) + args.offset : nullptr;
    F units_of[kSlivers];
    Units::across_tile(row, next, units_of);
    V::store(out, units_of[0]);
    V::store(second, units_of[1]);
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
