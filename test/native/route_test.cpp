// The router for one token, forward and backward, against float64: every score, normalisation, E and K, and
// ties.
#include <limits>
#include <vector>

#include "support/expect.h"
#include "support/router.h"

namespace moe::test {
namespace {

struct NamedRouter {
  const char* name;
  RouterConfig router;
};

const NamedRouter kRouters[] = {
    {"softmax over all", {}},
    {"softmax over all, normalised", {.normalize = true}},
    {"softmax over all, normalised with epsilon", {.normalize = true, .normalize_eps = 0.25f}},
    {"softmax over selected", {.softmax_over = SoftmaxOver::selected, .scale = 2.5f}},
    {"softmax over selected, normalised",
     {.softmax_over = SoftmaxOver::selected, .normalize = true, .normalize_eps = 0.5f}},
    {"sigmoid", {.score = Score::sigmoid}},
    {"sigmoid, normalised and scaled", {.score = Score::sigmoid, .normalize = true, .scale = 1.5f}},
    {"sigmoid, divided by the least sum",
     {.score = Score::sigmoid, .normalize = true, .normalize_min = 1000}},
    {"sigmoid, the sum above the least",
     {.score = Score::sigmoid, .normalize = true, .normalize_min = 1e-6f}},
};

std::vector<double> values_of(const Array& array) {
  std::vector<double> values;
  for (int64_t i = 0; i < array.size(); ++i) values.push_back(array[i]);
  return values;
}

struct Routed {
  Routed(const cpu::Kernels& table, const RouterConfig& router, Array& logits)
      : indices(DType::int32, router.top_k), weights(DType::float32, router.top_k) {
    Array scratch(DType::int32, logits.size());
    table.route_token(router, logits.f32(), logits.size(), static_cast<int32_t*>(indices.at(0)),
                      weights.f32(), static_cast<int32_t*>(scratch.at(0)));
    CHECK(indices.guard_untouched());
    CHECK(weights.guard_untouched());
    CHECK(scratch.guard_untouched());
  }

  std::vector<int32_t> chosen() const {
    std::vector<int32_t> chosen;
    for (int64_t k = 0; k < indices.size(); ++k) chosen.push_back(static_cast<int32_t>(indices[k]));
    return chosen;
  }

  Array indices, weights;
};

void check_route(const cpu::Kernels& table, const RouterConfig& router, Array& logits) {
  Routed routed(table, router, logits);
  const std::vector<int32_t> chosen = choose_experts(values_of(logits), router.top_k);
  CHECK_EQ(routed.chosen(), chosen);
  const std::vector<double> want = routing_weights(router, values_of(logits), chosen);
  // Sums over the chosen experts round once a term.
  const double bound = bound_of(DType::float32) + 3e-8 * router.top_k;
  check_close(
      {routed.weights, 1, router.top_k, router.top_k},
      [&](int64_t, int64_t k) { return want[static_cast<size_t>(k)]; }, bound);
}

void check_route_backward(const cpu::Kernels& table, const RouterConfig& router, Array& logits,
                          bool with_weights, bool with_extra, Random& random) {
  const int64_t E = logits.size(), K = router.top_k;
  Routed routed(table, router, logits);
  Array d_weights(DType::float32, K, random), extra(DType::float32, E, random);
  Array d_logits(DType::float32, E), scratch(DType::float32, 2 * K);
  table.route_token_backward(router, logits.f32(), E, static_cast<const int32_t*>(routed.indices.at(0)),
                             with_weights ? d_weights.f32() : nullptr, with_extra ? extra.f32() : nullptr,
                             d_logits.f32(), scratch.f32());
  std::vector<double> want(static_cast<size_t>(E), 0.0);
  if (with_weights) want = routing_gradient(router, values_of(logits), routed.chosen(), values_of(d_weights));
  double error = 0;
  for (int64_t e = 0; e < E; ++e) {
    const double difference = d_logits[e] - want[static_cast<size_t>(e)] - (with_extra ? extra[e] : 0);
    error += difference * difference;
  }
  // Normalised weights of few experts cancel to nothing: the bound is on the unit scale of what came in.
  CHECK(std::sqrt(error) <= 2e-6 * std::fabs(router.scale) * std::sqrt(static_cast<double>(E)));
  CHECK(d_logits.guard_untouched());
  CHECK(scratch.guard_untouched());
}

template <class Body>
void for_each_router(Body body) {
  for_each_table([&](const cpu::Kernels& table) {
    for (const NamedRouter& named : kRouters) {
      INFO(std::string(named.name));
      for (int experts : {1, 2, 3, 4, 5, 8, 15, 16, 17, 33, 64, 131}) {
        for (int top_k : {1, 2, 3, 8, experts}) {
          if (top_k > experts) continue;
          CAPTURE(experts);
          CAPTURE(top_k);
          RouterConfig router = named.router;
          router.top_k = top_k;
          body(table, router, experts);
        }
      }
    }
  });
}

// The experts chosen, by every table alike.
void check_choice(const std::vector<double>& values, int top_k, const std::vector<int32_t>& want) {
  for_each_table([&](const cpu::Kernels& table) {
    Array logits(DType::float32, static_cast<int64_t>(values.size()));
    for (size_t e = 0; e < values.size(); ++e) logits.set(static_cast<int64_t>(e), values[e]);
    const RouterConfig router = {.top_k = top_k};
    CHECK_EQ(Routed(table, router, logits).chosen(), want);
  });
}

}  // namespace

TEST_SUITE("kernels") {
  TEST_CASE("routing agrees with float64") {
    Random random(9);
    for_each_router([&](const cpu::Kernels& table, const RouterConfig& router, int experts) {
      Array logits(DType::float32, experts, random);
      check_route(table, router, logits);
      // Few distinct values: many ties.
      for (int64_t e = 0; e < experts; ++e) logits.set(e, std::round(logits[e]));
      check_route(table, router, logits);
    });
  }

  TEST_CASE("the gradient of routing agrees with float64") {
    Random random(10);
    for_each_router([&](const cpu::Kernels& table, const RouterConfig& router, int experts) {
      Array logits(DType::float32, experts, random);
      check_route_backward(table, router, logits, true, false, random);
      check_route_backward(table, router, logits, true, true, random);
      check_route_backward(table, router, logits, false, true, random);
      check_route_backward(table, router, logits, false, false, random);
    });
  }

  TEST_CASE("logits far apart neither overflow nor vanish") {
    for_each_table([](const cpu::Kernels& table) {
      Array logits(DType::float32, 5);
      const double values[] = {-500, 3e4, 2.9999e4, -3e4, 0};
      for (int64_t e = 0; e < 5; ++e) logits.set(e, values[e]);
      check_route(table, {.top_k = 2}, logits);
      check_route(table, {.top_k = 2, .softmax_over = SoftmaxOver::selected}, logits);
    });
  }

  TEST_CASE("ties go to the lower id; -0 ties with 0; infinities and NaN have their places") {
    check_choice({1, 3, 3, 1, 3}, 5, {1, 2, 4, 0, 3});
    check_choice({-0.0, 0.0, -1, -0.0}, 4, {0, 1, 3, 2});
    constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    check_choice({kNaN, -kInfinity, 1, kInfinity}, 4, {3, 2, 1, 0});
    check_choice({kNaN, kNaN, -kNaN, -1e38}, 4, {3, 0, 1, 2});
    check_choice(std::vector<double>(37, 0.5), 3, {0, 1, 2});
  }
}

}  // namespace moe::test
