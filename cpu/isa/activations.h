// Each activation's value and derivative on registers. Included inside an anonymous namespace after math.h.
//
// `value(x)` is f(x); `derivative(x, f)` gives f(x) through `f` and returns f'(x). Where the activation is
// gated, f is applied to the gate, and `up(u)` is what it is multiplied by; `up_gradient(u, g)` carries a
// gradient back through that.

struct PlainUp {
  static F up(F u) { return u; }
  static F up_gradient(F /*u*/, F gradient) { return gradient; }
};

struct Identity : PlainUp {
  static F value(F x) { return x; }
  static F derivative(F x, F& f) {
    f = x;
    return V::set(1.0f);
  }
};

struct Relu : PlainUp {
  static F value(F x) { return V::max(V::zero(), x); }
  static F derivative(F x, F& f) {
    f = value(x);
    return V::if_positive(x, V::set(1.0f), V::zero());
  }
};

struct Relu2 : PlainUp {
  static F value(F x) {
    const F r = Relu::value(x);
    return V::mul(r, r);
  }
  static F derivative(F x, F& f) {
    const F r = Relu::value(x);
    f = V::mul(r, r);
    return V::add(r, r);
  }
};

struct Silu : PlainUp {
  static F value(F x) { return V::mul(x, sigmoid(x)); }
  static F derivative(F x, F& f) {
    const F s = sigmoid(x);
    f = V::mul(x, s);
    return V::fma(f, V::sub(V::set(1.0f), s), s);  // s + x·s·(1 - s)
  }
};

// x·Φ(x)
struct Gelu : PlainUp {
  static F value(F x) {
    F density;
    return V::mul(x, normal_cdf(x, density));
  }
  static F derivative(F x, F& f) {
    F density;
    const F cdf = normal_cdf(x, density);
    f = V::mul(x, cdf);
    return V::fma(V::mul(x, V::set(0.39894228f)), density, cdf);
  }
};

// x·σ(2u) with u = √(2/π)·(x + 0.044715·x³), the same as x/2·(1 + tanh u)
struct GeluTanh : PlainUp {
  static constexpr float kTwiceRoot = 1.59576912f;

  static F slope(F x) {
    const F cubic = V::fma(V::mul(x, x), V::set(0.044715f), V::set(1.0f));
    return V::mul(V::mul(x, V::set(kTwiceRoot)), cubic);
  }
  static F value(F x) { return V::mul(x, sigmoid(slope(x))); }
  static F derivative(F x, F& f) {
    const F s = sigmoid(slope(x));
    f = V::mul(x, s);
    const F inner = V::mul(V::set(kTwiceRoot), V::fma(V::mul(x, x), V::set(3 * 0.044715f), V::set(1.0f)));
    return V::fma(V::mul(f, V::sub(V::set(1.0f), s)), inner, s);
  }
};

// g·σ(alpha·g)·(u + shift) of g = min(gate, limit) and u = clamp(up, ±limit). Nothing flows back through a
// clamp that held.
struct ClampedSilu {
  F limit, alpha, shift;

  explicit ClampedSilu(const ActivationSpec& spec)
      : limit(V::set(spec.limit)), alpha(V::set(spec.alpha)), shift(V::set(spec.up_shift)) {}

  F value(F x) const {
    x = V::min(limit, x);
    return V::mul(x, sigmoid(V::mul(alpha, x)));
  }
  F derivative(F x, F& f) const {
    const F clamped = V::min(limit, x);
    const F s = sigmoid(V::mul(alpha, clamped));
    f = V::mul(clamped, s);
    const F slope = V::fma(V::mul(alpha, f), V::sub(V::set(1.0f), s), s);
    return V::if_positive(V::sub(x, limit), V::zero(), slope);
  }
  F up(F u) const { return V::add(V::max(V::sub(V::zero(), limit), V::min(limit, u)), shift); }
  F up_gradient(F u, F gradient) const {
    return V::if_positive(V::sub(V::abs(u), limit), V::zero(), gradient);
  }
};

// Calls `body` with the function of the gate (gated) or of the whole (ungated).
template <class Body>
inline void with_activation(const ActivationSpec& activation, Body body) {
  switch (activation.function) {
    case Activation::identity:
      return body(Identity{});
    case Activation::relu:
    case Activation::reglu:
      return body(Relu{});
    case Activation::relu2:
      return body(Relu2{});
    case Activation::swiglu:
      if (activation.limit > 0) return body(ClampedSilu(activation));
      return body(Silu{});
    case Activation::silu:
      return body(Silu{});
    case Activation::gelu:
    case Activation::geglu:
      return body(Gelu{});
    case Activation::gelu_tanh:
    case Activation::geglu_tanh:
      return body(GeluTanh{});
    case Activation::swiglu_clamped:
      return body(ClampedSilu(activation));
  }
}
