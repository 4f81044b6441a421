// The router for one token: scores, choice, weights, and the gradient back to the logits. Included inside an
// anonymous namespace after math.h.

// Ranks as int32 order like the values, so that choice has no floating-point cases: -0 ties with 0, a NaN
// ranks below every number, a taken expert below that.
constexpr int32_t kTaken = INT32_MIN;
constexpr int32_t kNaNRank = INT32_MIN + 1;

inline int32_t rank_of(float value) {
  if (value != value) return kNaNRank;
  value += 0.0f;  // -0 becomes 0
  int32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

// The `top` largest of `count` values in descending order, ties to the lower index. `ranks` is scratch for
// `count`.
inline void select_top(const float* values, int64_t count, int top, int32_t* chosen, int32_t* ranks) {
  for (int64_t i = 0; i < count; ++i) ranks[i] = rank_of(values[i]);
  for (int k = 0; k < top; ++k) {
    int32_t best = kTaken;
    for (int64_t i = 0; i < count; i += V::kWidth) {
      const int32_t highest = V::max_of(ranks + i, static_cast<int>(min_of(V::kWidth, count - i)));
      best = highest > best ? highest : best;
    }
    int64_t i = 0;
    while (ranks[i] != best) ++i;
    chosen[k] = static_cast<int32_t>(i);
    ranks[i] = kTaken;
  }
}

// Σ_e exp(logits[e] - shift)
inline float sum_of_exp(const float* logits, int64_t experts, float shift) {
  F sum = V::zero();
  for (int64_t e = 0; e < experts; e += V::kWidth) {
    const int n = static_cast<int>(min_of(V::kWidth, experts - e));
    float terms[V::kWidth] = {};
    V::store_n(terms, exp(V::sub(V::load_n(logits + e, n), V::set(shift))), n);
    sum = V::add(sum, V::load(terms));
  }
  return V::sum(sum);
}

// ---- Scores. Those of one logit alone are a function s of z and its slope here; softmaxes follow.

struct SigmoidScore {
  static F value(F z) { return sigmoid(z); }
  static F slope(F /*z*/, F s) { return V::mul(s, V::sub(V::set(1.0f), s)); }
};

// σ(z) / 2s, which goes to 0 with s.
struct SqrtSoftplusScore {
  static F value(F z) { return V::sqrt(softplus(z)); }
  static F slope(F z, F s) { return V::if_positive(s, V::div(sigmoid(z), V::add(s, s)), V::zero()); }
};

struct IdentityScore {
  static F value(F z) { return z; }
  static F slope(F /*z*/, F /*s*/) { return V::set(1.0f); }
};

// Calls `body` with the function of a score of one logit alone, and says whether it is one.
template <class Body>
inline bool with_elementwise(Score score, Body body) {
  switch (score) {
    case Score::sigmoid:
      body(SigmoidScore{});
      return true;
    case Score::sqrtsoftplus:
      body(SqrtSoftplusScore{});
      return true;
    case Score::identity:
      body(IdentityScore{});
      return true;
    case Score::softmax:
    case Score::sparsemixer:
      return false;
  }
  return false;
}

// Whether sparsemixer leaves out logit z beside the largest remaining one.
inline bool sparse_masked(const RouterConfig& router, float z, float largest) {
  const float magnitude = z < 0 ? -z : z;
  return (largest - z) / (magnitude > largest ? magnitude : largest) > 2.0f * router.jitter_eps;
}

// Calls visit(e) for the experts that take part in the softmax of sparsemixer's choice k.
template <class Visit>
inline void for_sparse_rivals(const RouterConfig& router, const float* logits, int64_t experts,
                              const int32_t* indices, int k, Visit visit) {
  const float largest = logits[indices[k]];
  for (int64_t e = 0; e < experts; ++e) {
    const bool chosen_before = k == 1 && e == indices[0];
    if (!chosen_before && !sparse_masked(router, logits[e], largest)) visit(e);
  }
}

inline float exp_of(float x) {
  float result[V::kWidth];
  V::store(result, exp(V::set(x)));
  return result[0];
}

// Scores of the chosen experts, the same in both directions.
inline void chosen_scores(const RouterConfig& router, const float* logits, int64_t experts,
                          const int32_t* indices, float* scores) {
  const int K = router.top_k;
  for (int k = 0; k < K; ++k) scores[k] = logits[indices[k]];
  if (with_elementwise(router.score, [&](auto score) {
        for (int k = 0; k < K; k += V::kWidth) {
          const int n = static_cast<int>(min_of(V::kWidth, K - k));
          V::store_n(scores + k, score.value(V::load_n(scores + k, n)), n);
        }
      })) {
    return;
  }
  if (router.score == Score::sparsemixer) {
    for (int k = 0; k < K; ++k) {
      float sum = 0;
      for_sparse_rivals(router, logits, experts, indices, k,
                        [&](int64_t e) { sum += exp_of(logits[e] - logits[indices[k]]); });
      scores[k] = 1.0f / sum;
    }
    return;
  }
  // The largest logit is chosen first, unless something beside the logits decides.
  float shift = logits[indices[0]];
  const bool over_all = router.softmax_over == SoftmaxOver::all;
  for (int64_t e = 0; e < (over_all ? experts : K); ++e) {
    const float z = over_all ? logits[e] : logits[indices[e]];
    shift = z > shift ? z : shift;
  }
  for (int k = 0; k < K; k += V::kWidth) {
    const int n = static_cast<int>(min_of(V::kWidth, K - k));
    V::store_n(scores + k, exp(V::sub(V::load_n(scores + k, n), V::set(shift))), n);
  }
  float sum = 0;
  if (over_all) {
    sum = sum_of_exp(logits, experts, shift);
  } else {
    for (int k = 0; k < K; ++k) sum += scores[k];
  }
  for (int k = 0; k < K; ++k) scores[k] /= sum;
}

// ---- Choice

// Scores of all experts plus the selection bias, where the choice depends on more than the order of the
// logits.
inline void choice_values(const RouteTokenArgs& args, float* values) {
  const RouterConfig& router = args.router;
  const int64_t E = args.experts;
  const bool softmax = router.score == Score::softmax && router.softmax_over == SoftmaxOver::all;
  float largest = args.logits[0];
  for (int64_t e = 1; e < E; ++e) largest = args.logits[e] > largest ? args.logits[e] : largest;
  const F sum = V::set(softmax ? sum_of_exp(args.logits, E, largest) : 1.0f);
  for (int64_t e = 0; e < E; e += V::kWidth) {
    const int n = static_cast<int>(min_of(V::kWidth, E - e));
    const F z = V::load_n(args.logits + e, n);
    F score = softmax ? V::div(exp(V::sub(z, V::set(largest))), sum) : z;
    with_elementwise(router.score, [&](auto function) { score = function.value(z); });
    if (args.selection_bias != nullptr) score = V::add(score, V::load_n(args.selection_bias + e, n));
    V::store_n(values + e, score, n);
  }
}

// Masks the members of all but the best groups. `scratch` holds 3 · groups words.
inline void mask_groups(const RouterConfig& router, int64_t experts, float* values, float* scratch) {
  const int groups = router.group_count;
  const int64_t size = experts / groups;
  float* best = scratch;
  auto* kept = reinterpret_cast<int32_t*>(scratch + groups);
  for (int g = 0; g < groups; ++g) {
    float first = values[g * size], second = -__builtin_inff();
    for (int64_t i = 1; i < size; ++i) {
      const float value = values[g * size + i];
      second = value > first ? first : value > second ? value : second;
      first = value > first ? value : first;
    }
    best[g] = router.group_score == GroupScore::max ? first : first + second;
  }
  select_top(best, groups, router.group_top, kept, kept + groups);
  for (int g = 0; g < groups; ++g) {
    bool keep = false;
    for (int i = 0; i < router.group_top; ++i) keep = keep || kept[i] == g;
    for (int64_t i = 0; !keep && i < size; ++i) values[g * size + i] = router.group_mask_value;
  }
}

inline void choose(const RouteTokenArgs& args) {
  const RouterConfig& router = args.router;
  if (router.choice == Choice::given) return;
  if (router.choice == Choice::all) {
    for (int k = 0; k < router.top_k; ++k) args.indices[k] = k;
    return;
  }
  float* values = args.scratch;
  float* rest = values + args.experts;
  const bool by_logits = args.selection_bias == nullptr && router.group_count == 0;
  if (!by_logits) choice_values(args, values);
  if (router.group_count > 0) mask_groups(router, args.experts, values, rest);
  select_top(by_logits ? args.logits : values, args.experts, router.top_k, args.indices,
             reinterpret_cast<int32_t*>(rest));
}

// ---- Weights

// The slots of a token that are taken: all K, or the first whose probabilities reach top-p.
inline int taken_slots(const RouterConfig& router, const float* scores) {
  if (router.top_p <= 0) return router.top_k;
  float sum = 0;
  for (int k = 0; k < router.top_k; ++k) {
    sum += scores[k];
    if (sum >= router.top_p) return k + 1;
  }
  return router.top_k;
}

struct Divisor {
  float value;
  bool depends_on_scores;
};

inline Divisor divisor_of(const RouterConfig& router, const float* scores, int taken) {
  if (!router.normalize) return {1.0f, false};
  float sum = router.normalize_eps;
  for (int k = 0; k < taken; ++k) sum += scores[k];
  return sum < router.normalize_min ? Divisor{router.normalize_min, false} : Divisor{sum, true};
}

inline float scale_of(const float* expert_scale, int32_t expert) {
  return expert_scale != nullptr ? expert_scale[expert] : 1.0f;
}

int route_token(const RouteTokenArgs& args) {
  const RouterConfig& router = args.router;
  float* weights = args.weights;
  choose(args);
  chosen_scores(router, args.logits, args.experts, args.indices, weights);
  const int taken = taken_slots(router, weights);
  const float divisor = divisor_of(router, weights, taken).value;
  for (int k = 0; k < taken; ++k) {
    weights[k] = scale_of(args.expert_scale, args.indices[k]) * (router.scale * (weights[k] / divisor));
  }
  for (int k = taken; k < router.top_k; ++k) weights[k] = 0;
  return taken;
}

// ---- Backward

// w = scale · s / D  ⇒  ds_k = scale · (dw_k - Σ_j dw_j s_j / D) / D where D is the sum of the scores, scale
// · dw_k / D where it is a constant. In place: gradients of the weights become gradients of the scores.
inline void weights_backward(const RouteTokenBackwardArgs& args, const float* scores, float* gradients) {
  const RouterConfig& router = args.router;
  const int taken = taken_slots(router, scores);
  const Divisor divisor = divisor_of(router, scores, taken);
  float mean = 0;
  for (int k = 0; k < taken; ++k) {
    const float weight = scores[k] / divisor.value;
    if (args.d_expert_scale != nullptr) args.d_expert_scale[k] = args.d_weights[k] * (router.scale * weight);
    gradients[k] = args.d_weights[k] * scale_of(args.expert_scale, args.indices[k]);
    if (divisor.depends_on_scores) mean += gradients[k] * weight;
  }
  for (int k = 0; k < taken; ++k) gradients[k] = router.scale * ((gradients[k] - mean) / divisor.value);
  for (int k = taken; k < router.top_k; ++k) {
    gradients[k] = 0;
    if (args.d_expert_scale != nullptr) args.d_expert_scale[k] = 0;
  }
}

// s'(z_k) · ds_k at each chosen logit.
template <class Function>
inline void elementwise_backward(const RouteTokenBackwardArgs& args, Function score, const float* scores,
                                 const float* gradients) {
  for (int k = 0; k < args.router.top_k; k += V::kWidth) {
    const int n = static_cast<int>(min_of(V::kWidth, args.router.top_k - k));
    float flow[V::kWidth];
    for (int i = 0; i < n; ++i) flow[i] = args.logits[args.indices[k + i]];
    const F slope = score.slope(V::load_n(flow, n), V::load_n(scores + k, n));
    V::store_n(flow, V::mul(V::load_n(gradients + k, n), slope), n);
    for (int i = 0; i < n; ++i) args.d_logits[args.indices[k + i]] += flow[i];
  }
}

// p_e · (δ_k - s_k) for each softmax of its own.
inline void sparsemixer_backward(const RouteTokenBackwardArgs& args, const float* scores,
                                 const float* gradients) {
  for (int k = 0; k < args.router.top_k; ++k) {
    const float flow = gradients[k] * scores[k];
    args.d_logits[args.indices[k]] += flow;
    for_sparse_rivals(args.router, args.logits, args.experts, args.indices, k, [&](int64_t e) {
      args.d_logits[e] -= flow * (exp_of(args.logits[e] - args.logits[args.indices[k]]) * scores[k]);
    });
  }
}

// dz_e = s_e · (ds_e - Σ_j ds_j s_j), over all experts or over the chosen ones.
inline void softmax_backward(const RouteTokenBackwardArgs& args, const float* scores,
                             const float* gradients) {
  const int K = args.router.top_k;
  float mean = 0;
  for (int k = 0; k < K; ++k) mean += gradients[k] * scores[k];
  for (int k = 0; k < K; ++k) args.d_logits[args.indices[k]] += gradients[k] * scores[k];
  if (args.router.softmax_over == SoftmaxOver::selected) {
    for (int k = 0; k < K; ++k) args.d_logits[args.indices[k]] -= mean * scores[k];
    return;
  }
  float shift = args.logits[0];
  for (int64_t e = 1; e < args.experts; ++e) shift = args.logits[e] > shift ? args.logits[e] : shift;
  const F factor = V::set(-mean / sum_of_exp(args.logits, args.experts, shift));
  for (int64_t e = 0; e < args.experts; e += V::kWidth) {
    const int n = static_cast<int>(min_of(V::kWidth, args.experts - e));
    const F unscaled = exp(V::sub(V::load_n(args.logits + e, n), V::set(shift)));
    V::store_n(args.d_logits + e, V::fma(unscaled, factor, V::load_n(args.d_logits + e, n)), n);
  }
}

void route_token_backward(const RouteTokenBackwardArgs& args) {
  const int K = args.router.top_k;
  const size_t bytes = static_cast<size_t>(args.experts) * sizeof(float);
  if (args.extra != nullptr) {
    std::memcpy(args.d_logits, args.extra, bytes);
  } else {
    std::memset(args.d_logits, 0, bytes);
  }
  if (args.d_weights == nullptr) return;
  float* scores = args.scratch;
  float* gradients = args.scratch + K;
  chosen_scores(args.router, args.logits, args.experts, args.indices, scores);
  weights_backward(args, scores, gradients);
  const bool alone = with_elementwise(
      args.router.score, [&](auto score) { elementwise_backward(args, score, scores, gradients); });
  if (alone) return;
  if (args.router.score == Score::sparsemixer) {
    sparsemixer_backward(args, scores, gradients);
  } else {
    softmax_backward(args, scores, gradients);
  }
}

// ---- Losses

float softmax(const float* logits, int64_t experts, float* out) {
  float shift = logits[0];
  for (int64_t e = 1; e < experts; ++e) shift = logits[e] > shift ? logits[e] : shift;
  const float sum = sum_of_exp(logits, experts, shift);
  for (int64_t e = 0; e < experts; e += V::kWidth) {
    const int n = static_cast<int>(min_of(V::kWidth, experts - e));
    const F unscaled = exp(V::sub(V::load_n(logits + e, n), V::set(shift)));
    V::store_n(out + e, V::div(unscaled, V::set(sum)), n);
  }
  return shift + __builtin_logf(sum);
}

// Raw logits have no shares of their own: they may be negative.
void expert_shares(Score score, const float* logits, int64_t experts, float* shares, float* slopes) {
  float sum = 0;
  const bool alone = score != Score::identity && with_elementwise(score, [&](auto function) {
                       for (int64_t e = 0; e < experts; e += V::kWidth) {
                         const int n = static_cast<int>(min_of(V::kWidth, experts - e));
                         const F z = V::load_n(logits + e, n);
                         const F s = function.value(z);
                         V::store_n(shares + e, s, n);
                         V::store_n(slopes + e, function.slope(z, s), n);
                         for (int i = 0; i < n; ++i) sum += shares[e + i];
                       }
                     });
  if (!alone) {
    softmax(logits, experts, shares);
    std::memcpy(slopes, shares, static_cast<size_t>(experts) * sizeof(float));
    return;
  }
  for (int64_t e = 0; e < experts; ++e) {
    slopes[e] /= sum;
    shares[e] /= sum;
  }
}
