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

// ---- Scores. Those of one logit alone are a function and its derivative here; softmaxes follow.

constexpr bool is_elementwise(Score score) {
  return score == Score::sigmoid || score == Score::sqrtsoftplus;
}

inline F elementwise_score(Score score, F z) {
  return score == Score::sigmoid ? sigmoid(z) : V::sqrt(softplus(z));
}

// Of the score s at logit z. √softplus has σ(z) / 2s, which goes to 0 with s.
inline float elementwise_slope(Score score, float z, float s) {
  if (score == Score::sigmoid) return s * (1.0f - s);
  float slope[V::kWidth];
  V::store(slope, sigmoid(V::set(z)));
  return s > 0 ? slope[0] / (2.0f * s) : 0.0f;
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
    for (int i = 0; i < n; ++i) scores[k + i] = logits[indices[k + i]];
    const F z = V::load_n(scores + k, n);
    const bool alone = is_elementwise(router.score);
    V::store_n(scores + k, alone ? elementwise_score(router.score, z) : exp(V::sub(z, V::set(shift))), n);
  }
  if (is_elementwise(router.score)) return;
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
    F score = V::load_n(args.logits + e, n);
    if (softmax) score = V::div(exp(V::sub(score, V::set(largest))), sum);
    if (is_elementwise(router.score)) score = elementwise_score(router.score, score);
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
  float* values = args.scratch;
  float* rest = values + args.experts;
  const bool by_logits = args.selection_bias == nullptr && router.group_count == 0;
  if (!by_logits) choice_values(args, values);
  if (router.group_count > 0) mask_groups(router, args.experts, values, rest);
  select_top(by_logits ? args.logits : values, args.experts, router.top_k, args.indices,
             reinterpret_cast<int32_t*>(rest));
}

// ---- Weights

struct Divisor {
  float value;
  bool depends_on_scores;
};

inline Divisor divisor_of(const RouterConfig& router, const float* scores) {
  if (!router.normalize) return {1.0f, false};
  float sum = router.normalize_eps;
  for (int k = 0; k < router.top_k; ++k) sum += scores[k];
  return sum < router.normalize_min ? Divisor{router.normalize_min, false} : Divisor{sum, true};
}

inline float scale_of(const float* expert_scale, int32_t expert) {
  return expert_scale != nullptr ? expert_scale[expert] : 1.0f;
}

void route_token(const RouteTokenArgs& args) {
  const RouterConfig& router = args.router;
  float* weights = args.weights;
  choose(args);
  chosen_scores(router, args.logits, args.experts, args.indices, weights);
  const float divisor = divisor_of(router, weights).value;
  for (int k = 0; k < router.top_k; ++k) {
    weights[k] = scale_of(args.expert_scale, args.indices[k]) * (router.scale * (weights[k] / divisor));
  }
}

// ---- Backward

// w = scale · s / D  ⇒  ds_k = scale · (dw_k - Σ_j dw_j s_j / D) / D where D is the sum of the scores, scale
// · dw_k / D where it is a constant. In place: gradients of the weights become gradients of the scores.
inline void weights_backward(const RouteTokenBackwardArgs& args, const float* scores, float* gradients) {
  const RouterConfig& router = args.router;
  const Divisor divisor = divisor_of(router, scores);
  float mean = 0;
  for (int k = 0; k < router.top_k; ++k) {
    const float weight = scores[k] / divisor.value;
    if (args.d_expert_scale != nullptr) args.d_expert_scale[k] = args.d_weights[k] * (router.scale * weight);
    gradients[k] = args.d_weights[k] * scale_of(args.expert_scale, args.indices[k]);
    if (divisor.depends_on_scores) mean += gradients[k] * weight;
  }
  for (int k = 0; k < router.top_k; ++k)
    gradients[k] = router.scale * ((gradients[k] - mean) / divisor.value);
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
  if (is_elementwise(args.router.score)) {
    for (int k = 0; k < K; ++k) {
      const int32_t e = args.indices[k];
      args.d_logits[e] += gradients[k] * elementwise_slope(args.router.score, args.logits[e], scores[k]);
    }
  } else if (args.router.score == Score::sparsemixer) {
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

void expert_shares(Score score, const float* logits, int64_t experts, float* shares, float* slopes) {
  if (!is_elementwise(score)) {
    softmax(logits, experts, shares);
    std::memcpy(slopes, shares, static_cast<size_t>(experts) * sizeof(float));
    return;
  }
  float sum = 0;
  for (int64_t e = 0; e < experts; e += V::kWidth) {
    const int n = static_cast<int>(min_of(V::kWidth, experts - e));
    V::store_n(shares + e, elementwise_score(score, V::load_n(logits + e, n)), n);
    for (int i = 0; i < n; ++i) sum += shares[e + i];
  }
  for (int64_t e = 0; e < experts; ++e) {
    slopes[e] = elementwise_slope(score, logits[e], shares[e]) / sum;
    shares[e] /= sum;
  }
}
