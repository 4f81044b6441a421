#include "support/router.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace moe::test {

std::vector<int32_t> choose_experts(const std::vector<double>& logits, int top_k) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t left, int32_t right) {
    const double x = logits[static_cast<size_t>(left)], y = logits[static_cast<size_t>(right)];
    return std::isnan(y) ? !std::isnan(x) : x > y;
  });
  order.resize(static_cast<size_t>(top_k));
  return order;
}

std::vector<double> routing_weights(const RouterConfig& router, const std::vector<double>& logits,
                                    const std::vector<int32_t>& chosen) {
  std::vector<double> weights;
  for (int32_t expert : chosen) weights.push_back(logits[static_cast<size_t>(expert)]);
  if (router.score == Score::sigmoid) {
    for (double& z : weights) z = 1 / (1 + std::exp(-z));
  } else {
    const double shift = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (double z : router.softmax_over == SoftmaxOver::all ? logits : weights) sum += std::exp(z - shift);
    for (double& z : weights) z = std::exp(z - shift) / sum;
  }
  const double sum = std::accumulate(weights.begin(), weights.end(), double{router.normalize_eps});
  const double divisor = router.normalize ? std::max(sum, double{router.normalize_min}) : 1;
  for (double& w : weights) w *= router.scale / divisor;
  return weights;
}

std::vector<double> routing_gradient(const RouterConfig& router, const std::vector<double>& logits,
                                     const std::vector<int32_t>& chosen,
                                     const std::vector<double>& d_weights) {
  constexpr double kStep = 1e-5;
  const auto loss_at = [&](size_t expert, double step) {
    std::vector<double> moved = logits;
    moved[expert] += step;
    const std::vector<double> weights = routing_weights(router, moved, chosen);
    return std::inner_product(weights.begin(), weights.end(), d_weights.begin(), 0.0);
  };
  std::vector<double> gradient;
  for (size_t e = 0; e < logits.size(); ++e)
    gradient.push_back((loss_at(e, kStep) - loss_at(e, -kStep)) / (2 * kStep));
  return gradient;
}

}  // namespace moe::test
