// Packing: operands in whatever layout and dtype become panels of 32-bit units, [unit][lane]. Included inside
// an anonymous namespace after V.
//
// Full registers are stored even where fewer lanes are wanted: what spills over is overwritten by the next
// store, because units are written in ascending and blocks of lanes in the order that makes it so.

// Stored rows are lanes: blocks of kWidth x kWidth units are transposed in registers.
template <class Units, class T>
void pack_k_contiguous(const PackArgs& args) {
  constexpr int kSteps = Units::kSteps;
  const int64_t units = (args.steps + kSteps - 1) / kSteps;
  for (int lane = (args.pitch - 1) / V::kWidth * V::kWidth; lane >= 0; lane -= V::kWidth) {
    const int64_t left = args.lanes - lane;
    const int given = static_cast<int>(left > 0 ? min_of(V::kWidth, left) : 0);
    const T* rows[V::kWidth];
    for (int i = 0; i < given; ++i) rows[i] = static_cast<const T*>(args.rows[lane + i]) + args.offset;
    for (int64_t unit = 0; unit < units; unit += V::kWidth) {
      F block[V::kWidth];
      const int64_t step = unit * kSteps;
      for (int i = 0; i < given; ++i) block[i] = Units::load(rows[i] + step, args.steps - step);
      for (int i = given; i < V::kWidth; ++i) block[i] = V::zero();
      V::transpose(block);
      float* out = args.panel + unit * args.pitch + lane;
      const int64_t count = min_of(V::kWidth, units - unit);
      for (int64_t i = 0; i < count; ++i) V::store(out + i * args.pitch, block[i]);
    }
  }
}

// Stored rows are steps of k: lanes are copied as they lie.
template <class Units, class T>
void pack_lanes_contiguous(const PackArgs& args) {
  constexpr int kSteps = Units::kSteps;
  float* out = args.panel;
  for (int64_t step = 0; step < args.steps; step += kSteps, out += args.pitch) {
    const T* row = static_cast<const T*>(args.rows[step]) + args.offset;
    for (int lane = 0; lane < args.pitch; lane += V::kWidth) {
      const int n = static_cast<int>(min_of(V::kWidth, args.lanes - lane));
      const bool has_next = step + 1 < args.steps && kSteps > 1;
      const T* next = has_next ? static_cast<const T*>(args.rows[step + 1]) + args.offset + lane : nullptr;
      V::store(out + lane, Units::across(row + lane, next, n));
    }
  }
}
