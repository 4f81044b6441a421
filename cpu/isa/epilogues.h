// What happens to a finished tile of float32 sums on its way to memory: bias, activation, its derivative,
// rounding. Included inside an anonymous namespace after activations.h.

constexpr int kTilePitch = kSlivers * V::kWidth;

// Bias lanes as float32, zeros where there is none or beyond `lanes`.
inline void load_bias(const void* bias, DType dtype, int lanes, float* out) {
  for (int lane = 0; lane < kTilePitch; lane += V::kWidth) {
    F x = V::zero();
    if (bias != nullptr && lane < lanes) {
      const int n = static_cast<int>(min_of(V::kWidth, lanes - lane));
      with_float_type(dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        x = V::load_n(static_cast<const T*>(bias) + lane, n);
      });
    }
    V::store(out + lane, x);
  }
}

// All lanes of a tile.
template <class T>
inline void store_whole_rows(const StoreArgs& args) {
  float bias[kTilePitch];
  load_bias(args.bias, args.bias_dtype, kTilePitch, bias);
  const F scale = V::set(args.scale);
  F biases[kSlivers];
  for (int i = 0; i < kSlivers; ++i) biases[i] = V::load(bias + i * V::kWidth);
  // Copies, for what is stored could be the arguments as far as the compiler knows.
  const float* c = args.c;
  T* out = static_cast<T*>(args.out);
  const int64_t stride = args.out_stride;
  for (const float* const end = c + args.rows * kTilePitch; c < end; c += kTilePitch, out += stride) {
    MOE_UNROLLED
    for (int i = 0; i < kSlivers; ++i)
      V::store_n(out + i * V::kWidth, V::fma(scale, V::load(c + i * V::kWidth), biases[i]), V::kWidth);
  }
}

template <class T>
inline void store_lanes(const StoreArgs& args) {
  float bias[kTilePitch];
  load_bias(args.bias, args.bias_dtype, args.lanes, bias);
  const F scale = V::set(args.scale);
  for (int row = 0; row < args.rows; ++row) {
    T* out = static_cast<T*>(args.out) + row * args.out_stride;
    for (int lane = 0; lane < args.lanes; lane += V::kWidth) {
      const int n = static_cast<int>(min_of(V::kWidth, args.lanes - lane));
      F x = V::fma(scale, V::load(args.c + row * kTilePitch + lane), V::load(bias + lane));
      if (args.accumulate) x = V::add(V::load_n(out + lane, n), x);
      V::store_n(out + lane, x, n);
    }
  }
}

void store(const StoreArgs& args) {
  with_float_type(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (args.lanes < kTilePitch || args.accumulate) {
      store_lanes<T>(args);
    } else {
      store_whole_rows<T>(args);
    }
  });
}

inline F row_weight(const float* weights, int row) {
  return V::set(weights != nullptr ? weights[row] : 1.0f);
}

// How the columns of pre-activation rows lie in memory. Gated ones come as n gates and n ups, in two runs or
// alternating; kStride is the distance from one column to the next of its kind.
struct Ungated {
  static constexpr bool kGated = false;
  static constexpr int kStride = 1;
};

struct Apart {
  static constexpr bool kGated = true;
  static constexpr int kStride = 1;

  static void split(F a, F b, F& gate, F& up) {
    gate = a;
    up = b;
  }
  template <class T>
  static void load(const T* gates, const T* ups, int n, F& gate, F& up) {
    gate = V::load_n(gates, n);
    up = V::load_n(ups, n);
  }
  template <class T>
  static void store(T* gates, T* ups, int n, F gate, F up) {
    V::store_n(gates, gate, n);
    V::store_n(ups, up, n);
  }
};

struct Interleaved {
  static constexpr bool kGated = true;
  static constexpr int kStride = 2;

  static void split(F a, F b, F& gate, F& up) { V::deinterleave(a, b, gate, up); }
  template <class T>
  static void load(const T* pairs, const T* /*ups*/, int n, F& gate, F& up) {
    split(V::load_n(pairs, lanes_of(n, 0)), V::load_n(pairs + V::kWidth, lanes_of(n, 1)), gate, up);
  }
  template <class T>
  static void store(T* pairs, T* /*ups*/, int n, F gate, F up) {
    F a, b;
    V::interleave(gate, up, a, b);
    V::store_n(pairs, a, lanes_of(n, 0));
    V::store_n(pairs + V::kWidth, b, lanes_of(n, 1));
  }

 private:
  // How many of n pairs' lanes are in a register of theirs.
  static int lanes_of(int n, int index) {
    const int64_t left = 2 * n - index * V::kWidth;
    return static_cast<int>(left > 0 ? min_of(V::kWidth, left) : 0);
  }
};

template <class Body>
inline void with_columns(const ActivationSpec& activation, bool interleaved, Body body) {
  if (!is_gated(activation)) return body(Ungated{});
  interleaved ? body(Interleaved{}) : body(Apart{});
}

template <class T, class Columns, class Function>
void activate_gated(const ActivateArgs& args, Function function) {
  F gate_bias = V::zero(), up_bias = V::zero();
  if (args.up_bias != nullptr) {
    with_float_type(args.bias_dtype, [&](auto tag) {
      using Bias = typename decltype(tag)::type;
      Columns::load(static_cast<const Bias*>(args.gate_bias), static_cast<const Bias*>(args.up_bias),
                    args.lanes, gate_bias, up_bias);
    });
  }
  for (int row = 0; row < args.rows; ++row) {
    const float* c = args.c + row * kTilePitch;
    const F weight = row_weight(args.row_weights, row);
    F gate, up;
    Columns::split(V::load(c), V::load(c + V::kWidth), gate, up);
    gate = V::fma(weight, gate, gate_bias);
    up = V::fma(weight, up, up_bias);
    if (args.up_pre != nullptr) {
      Columns::store(static_cast<T*>(args.gate_pre) + row * args.pre_stride,
                     static_cast<T*>(args.up_pre) + row * args.pre_stride, args.lanes, gate, up);
    }
    if (args.out == nullptr) continue;
    const F activated = V::mul(function.value(gate), function.up(up));
    V::store_n(static_cast<T*>(args.out) + row * args.out_stride, activated, args.lanes);
  }
}

template <class T, class Function>
void activate_ungated(const ActivateArgs& args, Function function) {
  float bias[kTilePitch];
  load_bias(args.up_bias, args.bias_dtype, args.lanes, bias);
  for (int row = 0; row < args.rows; ++row) {
    const F weight = row_weight(args.row_weights, row);
    for (int lane = 0; lane < args.lanes; lane += V::kWidth) {
      const int n = static_cast<int>(min_of(V::kWidth, args.lanes - lane));
      const F pre = V::fma(weight, V::load(args.c + row * kTilePitch + lane), V::load(bias + lane));
      if (args.up_pre != nullptr) {
        V::store_n(static_cast<T*>(args.up_pre) + row * args.pre_stride + lane, pre, n);
      }
      if (args.out == nullptr) continue;
      V::store_n(static_cast<T*>(args.out) + row * args.out_stride + lane, function.value(pre), n);
    }
  }
}

void activate(const ActivateArgs& args) {
  with_float_type(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    with_activation(args.activation, [&](auto function) {
      with_columns(args.activation, args.interleaved, [&](auto columns) {
        using Columns = decltype(columns);
        if constexpr (Columns::kGated) {
          activate_gated<T, Columns>(args, function);
        } else {
          activate_ungated<T>(args, function);
        }
      });
    });
  });
}

// One register of lanes of one row. `gradient` is that of the activated row before weighting. Returns the
// activated row.
template <class T, class Columns, class Function>
inline F activate_backward_lanes(const ActivateBackwardArgs& args, Function function, int64_t at, int n,
                                 F gradient) {
  const T* up_at = static_cast<const T*>(args.up_pre) + at;
  T* d_up_at = static_cast<T*>(args.up_d_pre) + at;
  F value;
  if constexpr (Columns::kGated) {
    F gate_pre, up_pre;
    Columns::load(static_cast<const T*>(args.gate_pre) + at, up_at, n, gate_pre, up_pre);
    const F slope = function.derivative(gate_pre, value);
    const F up = function.up(up_pre);
    const F d_up = function.up_gradient(up_pre, V::mul(gradient, value));
    const F d_gate = V::mul(V::mul(gradient, up), slope);
    Columns::store(static_cast<T*>(args.gate_d_pre) + at, d_up_at, n, d_gate, d_up);
    return V::mul(value, up);
  } else {
    const F slope = function.derivative(V::load_n(up_at, n), value);
    V::store_n(d_up_at, V::mul(gradient, slope), n);
    return value;
  }
}

template <class T, class Columns, class Function>
void activate_backward_tile(const ActivateBackwardArgs& args, Function function) {
  for (int row = 0; row < args.rows; ++row) {
    const F weight = row_weight(args.row_weights, row);
    F dot = V::zero();
    for (int lane = 0; lane < args.lanes; lane += V::kWidth) {
      const int n = static_cast<int>(min_of(V::kWidth, args.lanes - lane));
      const F c = V::load_n(args.c + row * kTilePitch + lane, n);
      const int64_t at = row * args.pre_stride + lane * Columns::kStride;
      const F activated = activate_backward_lanes<T, Columns>(args, function, at, n, V::mul(weight, c));
      dot = V::fma(c, activated, dot);
      if (args.weighted == nullptr) continue;
      V::store_n(static_cast<T*>(args.weighted) + row * args.weighted_stride + lane,
                 V::mul(weight, activated), n);
    }
    if (args.dot != nullptr) args.dot[row * args.dot_stride] = V::sum(dot);
  }
}

void activate_backward(const ActivateBackwardArgs& args) {
  with_float_type(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    with_activation(args.activation, [&](auto function) {
      with_columns(args.activation, args.interleaved,
                   [&](auto columns) { activate_backward_tile<T, decltype(columns)>(args, function); });
    });
  });
}
