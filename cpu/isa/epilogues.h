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

void store(const StoreArgs& args) {
  float bias[kTilePitch];
  load_bias(args.bias, args.bias_dtype, args.lanes, bias);
  with_float_type(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (int row = 0; row < args.rows; ++row) {
      T* out = static_cast<T*>(args.out) + row * args.out_stride;
      for (int lane = 0; lane < args.lanes; lane += V::kWidth) {
        const int n = static_cast<int>(min_of(V::kWidth, args.lanes - lane));
        F x = V::add(V::load(args.c + row * kTilePitch + lane), V::load(bias + lane));
        if (args.accumulate) x = V::add(V::load_n(out + lane, n), x);
        V::store_n(out + lane, x, n);
      }
    }
  });
}

inline F row_weight(const float* weights, int row) {
  return V::set(weights != nullptr ? weights[row] : 1.0f);
}

template <class T, class Function>
void activate_gated(const ActivateArgs& args, Function function) {
  float gate_bias[kTilePitch], up_bias[kTilePitch];
  load_bias(args.gate_bias, args.bias_dtype, args.lanes, gate_bias);
  load_bias(args.up_bias, args.bias_dtype, args.lanes, up_bias);
  for (int row = 0; row < args.rows; ++row) {
    const float* c = args.c + row * kTilePitch;
    const F weight = row_weight(args.row_weights, row);
    const F gate = V::fma(weight, V::load(c), V::load(gate_bias));
    const F up = V::fma(weight, V::load(c + V::kWidth), V::load(up_bias));
    if (args.up_pre != nullptr) {
      V::store_n(static_cast<T*>(args.gate_pre) + row * args.pre_stride, gate, args.lanes);
      V::store_n(static_cast<T*>(args.up_pre) + row * args.pre_stride, up, args.lanes);
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
      is_gated(args.activation) ? activate_gated<T>(args, function) : activate_ungated<T>(args, function);
    });
  });
}

// One register of lanes of one row. `gradient` is that of the activated row before weighting. Returns the
// activated row.
template <class T, bool gated, class Function>
inline F activate_backward_lanes(const ActivateBackwardArgs& args, Function function, int64_t at, int n,
                                 F gradient) {
  const F pre = V::load_n(static_cast<const T*>(gated ? args.gate_pre : args.up_pre) + at, n);
  F value;
  const F slope = function.derivative(pre, value);
  if constexpr (gated) {
    const F up_pre = V::load_n(static_cast<const T*>(args.up_pre) + at, n);
    const F up = function.up(up_pre);
    const F d_up = function.up_gradient(up_pre, V::mul(gradient, value));
    V::store_n(static_cast<T*>(args.gate_d_pre) + at, V::mul(V::mul(gradient, up), slope), n);
    V::store_n(static_cast<T*>(args.up_d_pre) + at, d_up, n);
    return V::mul(value, up);
  } else {
    V::store_n(static_cast<T*>(args.up_d_pre) + at, V::mul(gradient, slope), n);
    return value;
  }
}

template <class T, bool gated, class Function>
void activate_backward_tile(const ActivateBackwardArgs& args, Function function) {
  for (int row = 0; row < args.rows; ++row) {
    const F weight = row_weight(args.row_weights, row);
    F dot = V::zero();
    for (int lane = 0; lane < args.lanes; lane += V::kWidth) {
      const int n = static_cast<int>(min_of(V::kWidth, args.lanes - lane));
      const F c = V::load_n(args.c + row * kTilePitch + lane, n);
      const int64_t at = row * args.pre_stride + lane;
      const F activated = activate_backward_lanes<T, gated>(args, function, at, n, V::mul(weight, c));
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
      is_gated(args.activation) ? activate_backward_tile<T, true>(args, function)
                                : activate_backward_tile<T, false>(args, function);
    });
  });
}
