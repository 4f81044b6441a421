// The router for one token: scores, top-k, weights, and the gradient back to the logits. Included inside an
// anonymous namespace after math.h.

// Ranks as int32 order like the logits, so that selection has no floating-point cases: -0 ties with 0, a NaN
// ranks below every number, a taken expert below that.
constexpr int32_t kTaken = INT32_MIN;
constexpr int32_t kNaNRank = INT32_MIN + 1;

inline int32_t rank_of(float logit) {
  if (logit != logit) return kNaNRank;
  logit += 0.0f;  // -0 becomes 0
  int32_t bits;
  std::memcpy(&bits, &logit, sizeof bits);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

// The K highest ranks in descending order, ties to the lower id.
inline void select_top_k(const float* logits, int64_t experts, int top_k, int32_t* indices, int32_t* ranks) {
  for (int64_t e = 0; e < experts; ++e) ranks[e] = rank_of(logits[e]);
  for (int k = 0; k < top_k; ++k) {
    int32_t best = kTaken;
    for (int64_t e = 0; e < experts; e += V::kWidth) {
      const int32_t highest = V::max_of(ranks + e, static_cast<int>(min_of(V::kWidth, experts - e)));
      best = highest > best ? highest : best;
    }
    int64_t e = 0;
    while (ranks[e] != best) ++e;
    indices[k] = static_cast<int32_t>(e);
    ranks[e] = kTaken;
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

// Scores of the chosen experts before normalisation, the same in both directions.
inline void chosen_scores(const RouterConfig& router, const float* logits, int64_t experts,
                          const int32_t* indices, float* scores) {
  const float shift = logits[indices[0]];
  for (int k = 0; k < router.top_k; k += V::kWidth) {
    const int n = static_cast<int>(min_of(V::kWidth, router.top_k - k));
    for (int i = 0; i < n; ++i) scores[k + i] = logits[indices[k + i]];
    const F z = V::load_n(scores + k, n);
    V::store_n(scores + k, router.score == Score::sigmoid ? sigmoid(z) : exp(V::sub(z, V::set(shift))), n);
  }
  if (router.score == Score::sigmoid) return;
  float sum = 0;
  if (router.softmax_over == SoftmaxOver::all) {
    sum = sum_of_exp(logits, experts, shift);
  } else {
    for (int k = 0; k < router.top_k; ++k) sum += scores[k];
  }
  for (int k = 0; k < router.top_k; ++k) scores[k] /= sum;
}

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

void route_token(const RouterConfig& router, const float* logits, int64_t experts, int32_t* indices,
                 float* weights, int32_t* scratch) {
  select_top_k(logits, experts, router.top_k, indices, scratch);
  chosen_scores(router, logits, experts, indices, weights);
  const float divisor = divisor_of(router, weights).value;
  for (int k = 0; k < router.top_k; ++k) weights[k] = router.scale * (weights[k] / divisor);
}

// w = scale · s / D  ⇒  ds_k = scale · (dw_k - Σ_j dw_j s_j / D) / D where D is the sum of the scores, scale
// · dw_k / D where it is a constant. In place: gradients of the weights become gradients of the scores.
inline void scores_backward(const RouterConfig& router, const float* scores, float* gradients) {
  const Divisor divisor = divisor_of(router, scores);
  float mean = 0;
  if (divisor.depends_on_scores) {
    for (int k = 0; k < router.top_k; ++k) mean += gradients[k] * (scores[k] / divisor.value);
  }
  for (int k = 0; k < router.top_k; ++k)
    gradients[k] = router.scale * ((gradients[k] - mean) / divisor.value);
}

void route_token_backward(const RouterConfig& router, const float* logits, int64_t experts,
                          const int32_t* indices, const float* d_weights, const float* extra, float* d_logits,
                          float* scratch) {
  const size_t bytes = static_cast<size_t>(experts) * sizeof(float);
  extra != nullptr ? (void)std::memcpy(d_logits, extra, bytes) : (void)std::memset(d_logits, 0, bytes);
  if (d_weights == nullptr) return;
  float* scores = scratch;
  float* gradients = scratch + router.top_k;
  chosen_scores(router, logits, experts, indices, scores);
  std::memcpy(gradients, d_weights, static_cast<size_t>(router.top_k) * sizeof(float));
  scores_backward(router, scores, gradients);
  if (router.score == Score::sigmoid) {
    for (int k = 0; k < router.top_k; ++k)
      d_logits[indices[k]] += gradients[k] * scores[k] * (1.0f - scores[k]);
    return;
  }
  float mean = 0;
  for (int k = 0; k < router.top_k; ++k) mean += gradients[k] * scores[k];
  for (int k = 0; k < router.top_k; ++k) d_logits[indices[k]] += gradients[k] * scores[k];
  if (router.softmax_over == SoftmaxOver::selected) {
    for (int k = 0; k < router.top_k; ++k) d_logits[indices[k]] -= mean * scores[k];
    return;
  }
  const float shift = logits[indices[0]];
  const float factor = mean / sum_of_exp(logits, experts, shift);
  for (int64_t e = 0; e < experts; e += V::kWidth) {
    const int n = static_cast<int>(min_of(V::kWidth, experts - e));
    const F unscaled = exp(V::sub(V::load_n(logits + e, n), V::set(shift)));
    V::store_n(d_logits + e, V::fma(unscaled, V::set(-factor), V::load_n(d_logits + e, n)), n);
  }
}
