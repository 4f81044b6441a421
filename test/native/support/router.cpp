#include "support/router.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace moe::test {
namespace {

std::vector<int32_t> largest(const Values& values, int count) {
  std::vector<int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t left, int32_t right) {
    const double x = values[static_cast<size_t>(left)], y = values[static_cast<size_t>(right)];
    return std::isnan(y) ? !std::isnan(x) : x > y;
  });
  order.resize(static_cast<size_t>(count));
  return order;
}

Values pick(const Values& values, const std::vector<int32_t>& indices) {
  Values picked;
  for (int32_t index : indices) picked.push_back(values[static_cast<size_t>(index)]);
  return picked;
}

bool is_of_one_logit(Score score) {
  return score == Score::sigmoid || score == Score::sqrtsoftplus || score == Score::identity;
}

// With top-p, the first whose shares reach p; all of them otherwise.
size_t taken_slots(const RouterConfig& config, const Values& logits, const std::vector<int32_t>& chosen) {
  if (config.top_p == 0) return chosen.size();
  const Values shares = pick(softmax(logits), chosen);
  double sum = 0;
  for (size_t k = 0; k < shares.size(); ++k) {
    sum += shares[k];
    if (sum >= config.top_p) return k + 1;
  }
  return shares.size();
}

// Members of all but the best groups take the mask value.
void mask_groups(const RouterConfig& config, Values& values) {
  const size_t size = values.size() / static_cast<size_t>(config.group_count);
  Values scores;
  for (size_t first = 0; first < values.size(); first += size) {
    Values members(values.begin() + static_cast<int64_t>(first),
                   values.begin() + static_cast<int64_t>(first + size));
    std::sort(members.rbegin(), members.rend());
    scores.push_back(config.group_score == GroupScore::max ? members[0] : members[0] + members[1]);
  }
  const std::vector<int32_t> kept = largest(scores, config.group_top);
  for (size_t e = 0; e < values.size(); ++e) {
    if (std::find(kept.begin(), kept.end(), static_cast<int32_t>(e / size)) == kept.end())
      values[e] = config.group_mask_value;
  }
}

// The experts among which choice k's score is a softmax probability.
std::vector<int32_t> rivals(const RouterConfig& config, const Values& logits,
                            const std::vector<int32_t>& chosen, size_t k) {
  if (config.score == Score::softmax && config.softmax_over == SoftmaxOver::selected) return chosen;
  std::vector<int32_t> rivals;
  const double most = logits[static_cast<size_t>(chosen[k])];
  for (size_t e = 0; e < logits.size(); ++e) {
    const auto id = static_cast<int32_t>(e);
    const bool taken = std::find(chosen.begin(), chosen.begin() + static_cast<int64_t>(k), id) !=
                       chosen.begin() + static_cast<int64_t>(k);
    const bool far =
        (most - logits[e]) / std::max(std::fabs(logits[e]), most) > 2 * double{config.jitter_eps};
    if (config.score == Score::softmax || (!taken && !far)) rivals.push_back(id);
  }
  return rivals;
}

Values chosen_scores(const RouterConfig& config, const Values& logits, const std::vector<int32_t>& chosen) {
  Values scores;
  for (size_t k = 0; k < chosen.size(); ++k) {
    const double z = logits[static_cast<size_t>(chosen[k])];
    if (is_of_one_logit(config.score)) {
      scores.push_back(score_at(config.score, z));
      continue;
    }
    double sum = 0;
    for (double rival : pick(logits, rivals(config, logits, chosen, k))) sum += std::exp(rival - z);
    scores.push_back(1 / sum);
  }
  return scores;
}

}  // namespace

Values softmax(const Values& logits) {
  const double shift = *std::max_element(logits.begin(), logits.end());
  Values shares;
  for (double z : logits) shares.push_back(std::exp(z - shift));
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (double& share : shares) share /= sum;
  return shares;
}

double score_at(Score score, double z) {
  if (score == Score::identity) return z;
  return score == Score::sigmoid ? 1 / (1 + std::exp(-z)) : std::sqrt(std::log1p(std::exp(z)));
}

std::vector<int32_t> choose_experts(const TokenRouter& router, const Values& logits) {
  const RouterConfig& config = router.config;
  Values values = logits;
  if (config.choice == Choice::all) {
    std::vector<int32_t> all(values.size());
    std::iota(all.begin(), all.end(), 0);
    return all;
  }
  // Alone, every score ranks as its logit does.
  if (!router.selection_bias.empty() || config.group_count > 0) {
    if (config.score == Score::softmax && config.softmax_over == SoftmaxOver::all) values = softmax(logits);
    if (is_of_one_logit(config.score))
      for (double& z : values) z = score_at(config.score, z);
    for (size_t e = 0; e < router.selection_bias.size(); ++e) values[e] += router.selection_bias[e];
    if (config.group_count > 0) mask_groups(config, values);
  }
  return largest(values, config.top_k);
}

Values routing_weights(const TokenRouter& router, const Values& logits, const std::vector<int32_t>& chosen) {
  const RouterConfig& config = router.config;
  Values weights = chosen_scores(config, logits, chosen);
  const size_t taken = taken_slots(config, logits, chosen);
  for (size_t k = taken; k < weights.size(); ++k) weights[k] = 0;
  const double sum = std::accumulate(weights.begin(), weights.end(), double{config.normalize_eps});
  const double divisor = config.normalize ? std::max(sum, double{config.normalize_min}) : 1;
  for (size_t k = 0; k < weights.size(); ++k) {
    weights[k] *= config.scale / divisor;
    if (!router.expert_scale.empty()) weights[k] *= router.expert_scale[static_cast<size_t>(chosen[k])];
  }
  return weights;
}

Values routing_gradient(const TokenRouter& router, const Values& logits, const std::vector<int32_t>& chosen,
                        const Values& d_weights) {
  constexpr double kStep = 1e-5;
  const auto loss_at = [&](size_t expert, double step) {
    Values moved = logits;
    moved[expert] += step;
    const Values weights = routing_weights(router, moved, chosen);
    return std::inner_product(weights.begin(), weights.end(), d_weights.begin(), 0.0);
  };
  Values gradient;
  for (size_t e = 0; e < logits.size(); ++e)
    gradient.push_back((loss_at(e, kStep) - loss_at(e, -kStep)) / (2 * kStep));
  return gradient;
}

}  // namespace moe::test
