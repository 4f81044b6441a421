// Each activation's value and derivative on registers. Included inside an anonymous namespace after math.h.
//
// `value(x)` is f(x); `derivative(x, f)` gives f(x) through `f` and returns f'(x).

struct Identity {
  static F value(F x) { return x; }
  static F derivative(F x, F& f) {
    f = x;
    return V::set(1.0f);
  }
};

struct Relu {
  static F value(F x) { return V::max(V::zero(), x); }
  static F derivative(F x, F& f) {
    f = value(x);
    return V::if_positive(x, V::set(1.0f), V::zero());
  }
};

struct Relu2 {
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

struct Silu {
  static F value(F x) { return V::mul(x, sigmoid(x)); }
  static F derivative(F x, F& f) {
    const F s = sigmoid(x);
    f = V::mul(x, s);
    return V::fma(f, V::sub(V::set(1.0f), s), s);  // s + x·s·(1 - s)
  }
};

// x·Φ(x)
struct Gelu {
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
struct GeluTanh {
  static F slope(F x) {
    static constexpr float kTwiceRoot = 1.59576912f;
    const F x2 = V::mul(x, x);
    return V::mul(V::mul(x, V::set(kTwiceRoot)), V::fma(x2, V::set(0.044715f), V::set(1.0f)));
  }
  static F value(F x) { return V::mul(x, sigmoid(slope(x))); }
  static F derivative(F x, F& f) {
    static constexpr float kTwiceRoot = 1.59576912f;
    const F s = sigmoid(slope(x));
    f = V::mul(x, s);
    const F inner = V::mul(V::set(kTwiceRoot), V::fma(V::mul(x, x), V::set(3 * 0.044715f), V::set(1.0f)));
    return V::fma(V::mul(f, V::sub(V::set(1.0f), s)), inner, s);
  }
};

// Calls `body` with the function applied to the gate (gated) or to the whole (ungated).
template <class Body>
inline void with_activation(Activation activation, Body body) {
  switch (activation) {
    case Activation::identity:
      return body(Identity{});
    case Activation::relu:
    case Activation::reglu:
      return body(Relu{});
    case Activation::relu2:
      return body(Relu2{});
    case Activation::silu:
    case Activation::swiglu:
      return body(Silu{});
    case Activation::gelu:
    case Activation::geglu:
      return body(Gelu{});
    case Activation::gelu_tanh:
    case Activation::geglu_tanh:
      return body(GeluTanh{});
  }
}
