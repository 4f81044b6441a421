// Elementary functions on registers, to about one float32 rounding. Included inside an anonymous namespace
// after V.

using F = V::F;

inline int64_t min_of(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// Horner: c[0] + c[1]·x + …
template <int N>
inline F polynomial(F x, const float (&c)[N]) {
  F sum = V::set(c[N - 1]);
  for (int i = N - 2; i >= 0; --i) sum = V::fma(sum, x, V::set(c[i]));
  return sum;
}

// e^x = 2^n · e^r with |r| ≤ ln 2 / 2, the Taylor series of e^r to degree 7 (5e-9 of its value). Zero below
// -87, e^88 above 88, so that 2^n is a normal number; NaN passes through.
inline F exp(F x) {
  static constexpr float kTaylor[] = {1.0f,          1.0f,          0.5f,          1.6666667e-1f,
                                      4.1666668e-2f, 8.3333338e-3f, 1.3888889e-3f, 1.9841270e-4f};
  const F below = V::sub(V::set(-87.0f), x);
  x = V::min(V::set(88.0f), V::max(V::set(-87.0f), x));
  const F n = V::round(V::mul(x, V::set(1.44269504f)));
  // ln 2 in two parts, so that n · (the first) is exact.
  F r = V::fma(n, V::set(-0.693359375f), x);
  r = V::fma(n, V::set(2.12194440e-4f), r);
  return V::if_positive(below, V::zero(), V::mul(polynomial(r, kTaylor), V::pow2(n)));
}

inline F sigmoid(F x) {
  return V::div(V::set(1.0f), V::add(V::set(1.0f), exp(V::sub(V::zero(), x))));
}

// ln(1 + e^x) = max(x, 0) + ln(1 + y) with y = e^-|x|, and ln(1 + y) = 2·atanh(r) with r = y / (2 + y) ≤ 1/3
// by its series to r^15 (5e-9 of its value).
inline F softplus(F x) {
  static constexpr float kAtanh[] = {2.0f,     2.0f / 3,  2.0f / 5,  2.0f / 7,
                                     2.0f / 9, 2.0f / 11, 2.0f / 13, 2.0f / 15};
  const F y = exp(V::sub(V::zero(), V::abs(x)));
  const F r = V::div(y, V::add(V::set(2.0f), y));
  return V::fma(r, polynomial(V::mul(r, r), kAtanh), V::max(V::zero(), x));
}

// Φ(x), the normal distribution: Φ(-|x|) = e^(-x²/2) · p(1 / (1 + 0.26 |x|)), p a minimax fit on |x| ≤ 13
// (relative error 2e-8), and Φ(x) = 1 - Φ(-x). `density` gets e^(-x²/2).
inline F normal_cdf(F x, F& density) {
  static constexpr float kFit[] = {0.1037636399f,  0.1029412523f,  0.1035545617f,
                                   0.04902224615f, 0.1655756235f,  -0.1575585753f,
                                   0.2572089136f,  -0.1555734985f, 0.03106586076f};
  density = exp(V::mul(V::set(-0.5f), V::mul(x, x)));
  const F t = V::div(V::set(1.0f), V::fma(V::abs(x), V::set(0.26f), V::set(1.0f)));
  const F tail = V::mul(V::mul(polynomial(t, kFit), t), density);
  return V::if_positive(x, V::sub(V::set(1.0f), tail), tail);
}
