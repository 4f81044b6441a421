// Losses on the router and their gradients: load balance (Switch, arXiv 2101.03961; GShard), z (ST-MoE, arXiv
// 2202.08906), importance and load (Shazeer 2017, arXiv 1701.06538), the entropy of its shares, and the bias
// update of loss-free balancing (arXiv 2408.15664). Bound by the bytes of the logits.
#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <vector>

#include "cpu/backend.h"
#include "cpu/kernels.h"
#include "cpu/loops.h"
#include "cpu/rank.h"
#include "cpu/router_noise.h"

namespace moe::cpu {
namespace {

using Floats = std::vector<float>;

// Tokens whose sums are kept together: a fixed number, so that sums do not depend on the threads.
constexpr int64_t kChunk = 256;

// CV² of sums over the experts, and its derivative to each.
struct SquaredVariation {
  float value = 0;
  Floats slopes;

  explicit SquaredVariation(const Floats& sums) : slopes(sums.size(), 0.0f) {
    const auto n = static_cast<float>(sums.size());
    const float mean = std::accumulate(sums.begin(), sums.end(), 0.0f) / n;
    if (mean == 0) return;
    float variance = 0;
    for (float sum : sums) variance += (sum - mean) * (sum - mean) / n;
    value = variance / (mean * mean);
    for (size_t e = 0; e < sums.size(); ++e) slopes[e] = 2 * ((sums[e] - mean) / mean - value) / (n * mean);
  }
};

// Of one token under noisy top-k: the probability that each expert is among the K best again when its own
// noise is drawn anew, with the place in the order that it has to beat.
class ChosenAgain {
 public:
  ChosenAgain(const RouterLoss& op, int64_t experts)
      : op_(op), E_(experts), normals_(static_cast<size_t>(experts)), order_(static_cast<size_t>(experts)) {}

  // Calls visit(e, rival, probability, slopes) for each expert.
  struct Slopes {
    float logit, noise_logit;  // to the noisy logit of e (minus that to the rival's), and to e's noise logit
  };
  template <class Visit>
  void each(int64_t token, Visit visit) {
    const int64_t K = op_.router.top_k;
    const float* noisy = op_.logits.f32() + token * E_;
    draw_normals(op_.router, token, E_, normals_.data());
    std::iota(order_.begin(), order_.end(), 0);
    std::partial_sort(order_.begin(), order_.begin() + K + 1, order_.end(), [&](int32_t a, int32_t b) {
      const int32_t rank_a = rank_of(noisy[a]), rank_b = rank_of(noisy[b]);
      return rank_a != rank_b ? rank_a > rank_b : a < b;
    });
    for (int64_t place = 0; place < E_; ++place) {
      const int32_t e = order_[static_cast<size_t>(place)];
      visit_expert(token, e, order_[static_cast<size_t>(place < K ? K : K - 1)], visit);
    }
  }

 private:
  template <class Visit>
  void visit_expert(int64_t token, int32_t e, int32_t rival, Visit visit) const {
    const float* noisy = op_.logits.f32() + token * E_;
    const float lead = noisy[e] - noisy[rival];
    const Deviation noise = deviation_of(op_.noise_logits.f32()[token * E_ + e]);
    const float deviation = op_.router.noise.strength * noise.value;
    if (deviation == 0) return visit(e, rival, lead > 0 ? 1.0f : 0.0f, Slopes{0, 0});
    const float distance = lead / deviation - normals_[static_cast<size_t>(e)];
    constexpr float kRootOfHalf = 0.70710678f, kDensityAtZero = 0.39894228f;
    const float slope = kDensityAtZero * std::exp(-0.5f * distance * distance) / deviation;
    const float to_noise = -slope * lead / deviation * (op_.router.noise.strength * noise.slope);
    visit(e, rival, 0.5f * std::erfc(-distance * kRootOfHalf), Slopes{slope, to_noise});
  }

  const RouterLoss& op_;
  const int64_t E_;
  Floats normals_;
  std::vector<int32_t> order_;
};

class Losses {
 public:
  explicit Losses(const RouterLoss& op)
      : op_(op), T_(op.logits.dim(0)), E_(op.logits.dim(1)), K_(op.indices.dim(1)) {
    length_ = op.sequence_length > 0 ? op.sequence_length : T_;
    for (int64_t t = 0; t < T_; ++t) counted_ += counts(t) ? 1 : 0;
  }

  void run() {
    std::fill_n(op_.d_logits.f32(), T_ * E_, 0.0f);
    if (op_.d_noise_logits) std::fill_n(op_.d_noise_logits.f32(), T_ * E_, 0.0f);
    float* losses = op_.losses.f32();
    std::fill_n(losses, 4, 0.0f);
    op_.entropy.f32()[0] = 0;
    if (counted_ == 0) return;
    if (op_.load_balance != 0) {
      const int64_t runs = T_ / length_;
      for (int64_t i = 0; i < runs; ++i)
        losses[0] += balance(i * length_, (i + 1) * length_, op_.load_balance / static_cast<float>(runs));
    }
    losses[1] = square_log_sums(op_.entropy.f32()[0]);
    if (op_.importance != 0) losses[2] = importance();
    if (op_.load != 0) losses[3] = load();
  }

 private:
  bool counts(int64_t t) const { return !op_.mask || op_.mask.i32()[t] != 0; }
  const float* logits(int64_t t) const { return op_.logits.f32() + t * E_; }
  float* d_logits(int64_t t) const { return op_.d_logits.f32() + t * E_; }
  SlotFate fate(int64_t slot) const {
    return op_.dropped ? static_cast<SlotFate>(op_.dropped.i32()[slot]) : SlotFate::served;
  }
  size_t expert_of(int64_t slot) const { return static_cast<size_t>(op_.indices.i32()[slot]); }

  // One run of tokens: its loss; its gradient is added to d_logits.
  float balance(int64_t begin, int64_t end, float coefficient) const {
    const auto E = static_cast<size_t>(E_);
    Floats slots(E, 0.0f);
    float tokens = 0, taken = 0;
    for (int64_t t = begin; t < end; ++t) {
      if (!counts(t)) continue;
      tokens += 1;
      for (int64_t slot = t * K_; slot < (t + 1) * K_; ++slot) {
        if (fate(slot) == SlotFate::untaken) continue;
        slots[expert_of(slot)] += 1;
        taken += 1;
      }
    }
    if (taken == 0) return 0;
    Floats mean = sum_over_tokens(begin, end, [&](int64_t t, Floats& sum, Floats& shares, Floats& slopes) {
      kernels().expert_shares(op_.router.score, logits(t), E_, shares.data(), slopes.data());
      for (size_t e = 0; e < E; ++e) sum[e] += shares[e];
    });
    float loss = 0;
    for (size_t e = 0; e < E; ++e) {
      slots[e] /= taken;
      loss += slots[e] * (mean[e] / tokens);
    }
    const float scale = coefficient * static_cast<float>(E_);
    each_counted(begin, end, [&](int64_t t, Floats& shares, Floats& slopes) {
      kernels().expert_shares(op_.router.score, logits(t), E_, shares.data(), slopes.data());
      float flow = 0;
      for (size_t e = 0; e < E; ++e) flow += slots[e] * shares[e];
      for (size_t e = 0; e < E; ++e) d_logits(t)[e] += scale / tokens * slopes[e] * (slots[e] - flow);
    });
    return scale * loss;
  }

  // The z-loss, and the mean entropy of the shares, which needs the same pass.
  float square_log_sums(float& mean_entropy) const {
    const float scale = op_.z / static_cast<float>(counted_);
    Floats squares(static_cast<size_t>(T_), 0.0f), entropies(static_cast<size_t>(T_), 0.0f);
    each_counted(0, T_, [&](int64_t t, Floats& shares, Floats& slopes) {
      const float log_sum = kernels().softmax(logits(t), E_, shares.data());
      squares[static_cast<size_t>(t)] = log_sum * log_sum;
      for (int64_t e = 0; e < E_ && op_.z != 0; ++e)
        d_logits(t)[e] += 2 * scale * log_sum * shares[static_cast<size_t>(e)];
      kernels().expert_shares(op_.router.score, logits(t), E_, shares.data(), slopes.data());
      float entropy = 0;
      for (float share : shares) entropy -= share > 0 ? share * std::log(share) : 0.0f;
      entropies[static_cast<size_t>(t)] = entropy;
    });
    mean_entropy = std::accumulate(entropies.begin(), entropies.end(), 0.0f) / static_cast<float>(counted_);
    return op_.z == 0 ? 0 : scale * std::accumulate(squares.begin(), squares.end(), 0.0f);
  }

  // CV² of what the experts' weights add up to, differentiated through the weights.
  float importance() const {
    Floats sums(static_cast<size_t>(E_), 0.0f);
    for (int64_t slot = 0; slot < T_ * K_; ++slot) {
      if (counts(slot / K_) && fate(slot) == SlotFate::served)
        sums[expert_of(slot)] += op_.weights.f32()[slot];
    }
    const SquaredVariation variation(sums);
    Floats expert_scale(static_cast<size_t>(E_), 1.0f);
    if (op_.expert_scale)
      kernels().cast(op_.expert_scale.data, op_.expert_scale.dtype, expert_scale.data(), DType::float32,
                     op_.expert_scale.elements());
    for_chunks(T_, 8 * E_, [&](int64_t begin, int64_t end) {
      Floats d_weights(static_cast<size_t>(K_)), scratch(static_cast<size_t>(2 * K_)),
          before(static_cast<size_t>(E_));
      for (int64_t t = begin; t < end; ++t) {
        if (!counts(t)) continue;
        for (int64_t k = 0; k < K_; ++k) {
          const bool served = fate(t * K_ + k) == SlotFate::served;
          d_weights[static_cast<size_t>(k)] =
              served ? op_.importance * variation.slopes[expert_of(t * K_ + k)] : 0.0f;
        }
        std::copy_n(d_logits(t), E_, before.begin());
        kernels().route_token_backward({.router = op_.router,
                                        .experts = E_,
                                        .logits = logits(t),
                                        .indices = op_.indices.i32() + t * K_,
                                        .expert_scale = expert_scale.data(),
                                        .d_weights = d_weights.data(),
                                        .extra = before.data(),
                                        .d_logits = d_logits(t),
                                        .d_expert_scale = nullptr,
                                        .scratch = scratch.data()});
      }
    });
    return op_.importance * variation.value;
  }

  // CV² of how many tokens each expert can expect. All of them where every expert is chosen anyway.
  float load() const {
    if (K_ >= E_) return 0;
    const Floats sums = sum_over_tokens(0, T_, [&](int64_t t, Floats& sum, Floats&, Floats&) {
      ChosenAgain(op_, E_).each(t, [&](int32_t e, int32_t, float probability, ChosenAgain::Slopes) {
        sum[static_cast<size_t>(e)] += probability;
      });
    });
    const SquaredVariation variation(sums);
    each_counted(0, T_, [&](int64_t t, Floats&, Floats&) {
      ChosenAgain(op_, E_).each(t, [&](int32_t e, int32_t rival, float, ChosenAgain::Slopes slopes) {
        const float flow = op_.load * variation.slopes[static_cast<size_t>(e)];
        d_logits(t)[e] += flow * slopes.logit;
        d_logits(t)[rival] -= flow * slopes.logit;
        op_.d_noise_logits.f32()[t * E_ + e] += flow * slopes.noise_logit;
      });
    });
    return op_.load * variation.value;
  }

  // Calls visit(t, scratch, scratch) for each token that counts, on any thread.
  template <class Visit>
  void each_counted(int64_t begin, int64_t end, Visit visit) const {
    for_chunks(end - begin, E_ * 8, [&](int64_t first, int64_t last) {
      Floats a(static_cast<size_t>(E_)), b(static_cast<size_t>(E_));
      for (int64_t t = begin + first; t < begin + last; ++t) {
        if (counts(t)) visit(t, a, b);
      }
    });
  }

  // [E'] sums that add(t, sum, scratch, scratch) makes over the counted tokens, chunk after chunk.
  template <class Add>
  Floats sum_over_tokens(int64_t begin, int64_t end, Add add) const {
    const auto E = static_cast<size_t>(E_);
    const int64_t chunks = (end - begin + kChunk - 1) / kChunk;
    std::vector<Floats> sums(static_cast<size_t>(chunks), Floats(E, 0.0f));
    ThreadPool::instance().parallel_for(chunks, [&](int64_t chunk) {
      Floats a(E), b(E);
      const int64_t first = begin + chunk * kChunk, last = std::min(end, first + kChunk);
      for (int64_t t = first; t < last; ++t) {
        if (counts(t)) add(t, sums[static_cast<size_t>(chunk)], a, b);
      }
    });
    Floats total(E, 0.0f);
    for (const Floats& own : sums) {
      for (size_t e = 0; e < E; ++e) total[e] += own[e];
    }
    return total;
  }

  const RouterLoss& op_;
  const int64_t T_, E_, K_;
  int64_t length_ = 0;
  int64_t counted_ = 0;
};

}  // namespace

void run(const RouterLoss& op) {
  check_range("indices", op.indices, op.logits.dim(1));
  Losses(op).run();
}

void run(const UpdateSelectionBias& op) {
  const int64_t E = op.counts.dim(0);
  int64_t total = 0;
  for (int64_t e = 0; e < E; ++e) total += op.counts.i32()[e];
  for (int64_t e = 0; e < E; ++e) {
    const int64_t above = int64_t{op.counts.i32()[e]} * E - total;
    if (above != 0) op.selection_bias.f32()[e] += above < 0 ? op.rate : -op.rate;
  }
}

}  // namespace moe::cpu
