// The router for one token, forward and backward, against float64: every score and option, E and K, and ties.
#include <limits>
#include <vector>

#include "support/expect.h"
#include "support/router.h"

namespace moe::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct NamedRouter {
  const char* name;
  RouterConfig config;
  bool with_bias = false, with_scale = false;
};

const NamedRouter kRouters[] = {
    {"softmax over all", {}},
    {"softmax over all, normalised", {.normalize = true}},
    {"softmax over all, normalised with epsilon", {.normalize = true, .normalize_eps = 0.25f}},
    {"softmax over all, biased and scaled", {}, true, true},
    {"softmax over selected", {.softmax_over = SoftmaxOver::selected, .scale = 2.5f}},
    {"softmax over selected, normalised",
     {.softmax_over = SoftmaxOver::selected, .normalize = true, .normalize_eps = 0.5f}},
    {"softmax over selected, biased", {.softmax_over = SoftmaxOver::selected}, true},
    {"sigmoid", {.score = Score::sigmoid}},
    {"sigmoid, normalised and scaled", {.score = Score::sigmoid, .normalize = true, .scale = 1.5f}},
    {"sigmoid, divided by the least sum",
     {.score = Score::sigmoid, .normalize = true, .normalize_min = 1000},
     true,
     true},
    {"sigmoid, the sum above the least",
     {.score = Score::sigmoid, .normalize = true, .normalize_min = 1e-6f}},
    {"√softplus", {.score = Score::sqrtsoftplus}},
    {"√softplus, normalised, biased and scaled",
     {.score = Score::sqrtsoftplus, .normalize = true, .scale = 1.5f},
     true,
     true},
    {"identity, scaled", {.score = Score::identity, .scale = -1.5f}, false, true},
    {"identity of every expert", {.choice = Choice::all, .score = Score::identity}},
    {"softmax of every expert, scaled", {.choice = Choice::all}, false, true},
    {"top-p", {.top_p = 0.4f}},
    {"top-p in groups, normalised, biased and scaled",
     {.group_count = 4, .group_top = 3, .top_p = 0.6f, .normalize = true},
     true,
     true},
    {"groups by the largest, others -∞",
     {.score = Score::sigmoid, .group_count = 4, .group_top = 2, .group_mask_value = -kInfinity}},
    {"groups by the two largest, others 0",
     {.score = Score::sigmoid, .group_count = 4, .group_top = 1, .group_score = GroupScore::top2sum},
     true},
    {"groups of softmax scores, normalised", {.group_count = 4, .group_top = 3, .normalize = true}},
    {"sparsemixer", {.score = Score::sparsemixer, .jitter_eps = 0.3f}},
    {"sparsemixer, scaled", {.score = Score::sparsemixer, .jitter_eps = 0.05f}, false, true},
};

Values values_of(const Array& array) {
  Values values;
  for (int64_t i = 0; i < array.size(); ++i) values.push_back(array[i]);
  return values;
}

// One token's logits and the vectors of its router.
struct Token {
  Token(const RouterConfig& config, int64_t experts, bool with_bias, bool with_scale, Random& random)
      : logits(DType::float32, experts, random),
        bias(DType::float32, with_bias ? experts : 0, random),
        scale(DType::float32, with_scale ? experts : 0, random),
        router{config, values_of(bias), values_of(scale)} {}

  float* bias_or_null() { return bias.size() > 0 ? bias.f32() : nullptr; }
  float* scale_or_null() { return scale.size() > 0 ? scale.f32() : nullptr; }

  Array logits, bias, scale;
  TokenRouter router;
};

struct Routed {
  Routed(const cpu::Kernels& table, Token& token)
      : indices(DType::int32, token.router.config.top_k), weights(DType::float32, token.router.config.top_k) {
    Array scratch(DType::float32, 4 * token.logits.size());
    table.route_token({.router = token.router.config,
                       .experts = token.logits.size(),
                       .logits = token.logits.f32(),
                       .selection_bias = token.bias_or_null(),
                       .expert_scale = token.scale_or_null(),
                       .indices = static_cast<int32_t*>(indices.at(0)),
                       .weights = weights.f32(),
                       .scratch = scratch.f32()});
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

void check_values(Array& got, const Values& want, double bound) {
  check_close(
      {got, 1, got.size(), got.size()}, [&](int64_t, int64_t i) { return want[static_cast<size_t>(i)]; },
      bound);
}

// Sums over experts round once a term.
double bound_of_sum(int64_t terms) {
  return bound_of(DType::float32) + 3e-8 * static_cast<double>(terms);
}

void check_route(const cpu::Kernels& table, Token& token) {
  Routed routed(table, token);
  const std::vector<int32_t> chosen = choose_experts(token.router, values_of(token.logits));
  REQUIRE_EQ(routed.chosen(), chosen);
  check_values(routed.weights, routing_weights(token.router, values_of(token.logits), chosen),
               bound_of_sum(token.logits.size()));
}

void check_route_backward(const cpu::Kernels& table, Token& token, bool with_weights, bool with_extra,
                          Random& random) {
  const int64_t E = token.logits.size(), K = token.router.config.top_k;
  Routed routed(table, token);
  Array d_weights(DType::float32, K, random), extra(DType::float32, E, random);
  Array d_logits(DType::float32, E), d_scale(DType::float32, K), scratch(DType::float32, 2 * K);
  const bool with_scale = token.scale.size() > 0;
  table.route_token_backward({.router = token.router.config,
                              .experts = E,
                              .logits = token.logits.f32(),
                              .indices = static_cast<const int32_t*>(routed.indices.at(0)),
                              .expert_scale = token.scale_or_null(),
                              .d_weights = with_weights ? d_weights.f32() : nullptr,
                              .extra = with_extra ? extra.f32() : nullptr,
                              .d_logits = d_logits.f32(),
                              .d_expert_scale = with_scale ? d_scale.f32() : nullptr,
                              .scratch = scratch.f32()});
  Values want(static_cast<size_t>(E), 0.0);
  const Values logits = values_of(token.logits);
  if (with_weights) want = routing_gradient(token.router, logits, routed.chosen(), values_of(d_weights));
  double error = 0;
  for (int64_t e = 0; e < E; ++e) {
    const double difference = d_logits[e] - want[static_cast<size_t>(e)] - (with_extra ? extra[e] : 0);
    error += difference * difference;
  }
  // Normalised weights of few experts cancel to nothing: the bound is on the unit scale of what came in.
  CHECK(std::sqrt(error) <= 3e-6 * std::fabs(token.router.config.scale) * std::sqrt(static_cast<double>(E)));
  CHECK(d_logits.guard_untouched());
  CHECK(scratch.guard_untouched());
  if (!with_scale || !with_weights) return;
  Values by_scale = routing_weights({token.router.config, {}, {}}, logits, routed.chosen());
  for (int64_t k = 0; k < K; ++k) by_scale[static_cast<size_t>(k)] *= d_weights[k];
  check_values(d_scale, by_scale, bound_of_sum(E));
}

bool makes_sense(const RouterConfig& config, int experts) {
  // Differences of a reference that looks at every expert for every choice take long.
  if (config.top_k > 8 && experts > 33) return false;
  if (config.choice == Choice::all && config.top_k != experts) return false;
  if (config.top_k > experts || (config.score == Score::sparsemixer && config.top_k > 2)) return false;
  return config.group_count == 0 || (experts % config.group_count == 0 && experts > config.group_count);
}

// Calls body(table, token) for every router at every E and K that it allows.
template <class Body>
void for_each_token(Random& random, Body body) {
  for_each_table([&](const cpu::Kernels& table) {
    for (const NamedRouter& named : kRouters) {
      INFO(std::string(named.name));
      for (int experts : {1, 2, 3, 4, 5, 8, 15, 16, 17, 33, 64, 132}) {
        for (int top_k : {1, 2, 3, 8, experts}) {
          RouterConfig config = named.config;
          config.top_k = top_k;
          if (!makes_sense(config, experts)) continue;
          CAPTURE(experts);
          CAPTURE(top_k);
          Token token(config, experts, named.with_bias, named.with_scale, random);
          body(table, token);
        }
      }
    }
  });
}

// The experts chosen, by every table alike.
void check_choice(const Values& values, int top_k, const std::vector<int32_t>& want) {
  Random random(0);
  for_each_table([&](const cpu::Kernels& table) {
    Token token({.top_k = top_k}, static_cast<int64_t>(values.size()), false, false, random);
    for (size_t e = 0; e < values.size(); ++e) token.logits.set(static_cast<int64_t>(e), values[e]);
    CHECK_EQ(Routed(table, token).chosen(), want);
  });
}

}  // namespace

TEST_SUITE("kernels") {
  TEST_CASE("routing agrees with float64") {
    Random random(9);
    for_each_token(random, [](const cpu::Kernels& table, Token& token) {
      check_route(table, token);
      // Few distinct values: many ties.
      for (int64_t e = 0; e < token.logits.size(); ++e) token.logits.set(e, std::round(token.logits[e]));
      check_route(table, token);
    });
  }

  TEST_CASE("the gradient of routing agrees with float64") {
    Random random(10);
    for_each_token(random, [&](const cpu::Kernels& table, Token& token) {
      check_route_backward(table, token, true, false, random);
      check_route_backward(table, token, true, true, random);
      check_route_backward(table, token, false, true, random);
      check_route_backward(table, token, false, false, random);
    });
  }

  TEST_CASE("logits far apart neither overflow nor vanish") {
    Random random(18);
    for_each_table([&](const cpu::Kernels& table) {
      for (SoftmaxOver over : {SoftmaxOver::all, SoftmaxOver::selected}) {
        Token token({.top_k = 2, .softmax_over = over}, 5, false, false, random);
        const double values[] = {-500, 3e4, 2.9999e4, -3e4, 0};
        for (int64_t e = 0; e < 5; ++e) token.logits.set(e, values[e]);
        check_route(table, token);
      }
    });
  }

  TEST_CASE("ties go to the lower id; -0 ties with 0; infinities and NaN have their places") {
    constexpr double kNaN = std::numeric_limits<double>::quiet_NaN(),
                     kMost = std::numeric_limits<double>::infinity();
    check_choice({1, 3, 3, 1, 3}, 5, {1, 2, 4, 0, 3});
    check_choice({-0.0, 0.0, -1, -0.0}, 4, {0, 1, 3, 2});
    check_choice({kNaN, -kMost, 1, kMost}, 4, {3, 2, 1, 0});
    check_choice({kNaN, kNaN, -kNaN, -1e38}, 4, {3, 0, 1, 2});
    check_choice(Values(37, 0.5), 3, {0, 1, 2});
  }

  TEST_CASE("shares of the experts agree with float64") {
    Random random(19);
    for_each_table([&](const cpu::Kernels& table) {
      for (int64_t experts : {1, 3, 4, 5, 16, 17, 133}) {
        CAPTURE(experts);
        Array logits(DType::float32, experts, random), shares(DType::float32, experts),
            slopes(DType::float32, experts);
        const Values z = values_of(logits), wanted = softmax(z);
        const double log_sum = table.softmax(logits.f32(), experts, shares.f32());
        check_values(shares, wanted, bound_of_sum(experts));
        CHECK(std::fabs(log_sum - (z[0] - std::log(wanted[0]))) <= 1e-6);
        table.expert_shares(Score::softmax, logits.f32(), experts, shares.f32(), slopes.f32());
        check_values(shares, wanted, bound_of_sum(experts));
        check_values(slopes, wanted, bound_of_sum(experts));
        for (Score score : {Score::sigmoid, Score::sqrtsoftplus}) {
          constexpr double kStep = 1e-5;
          Values scores, derivatives;
          double sum = 0;
          for (double x : z) {
            scores.push_back(score_at(score, x));
            derivatives.push_back((score_at(score, x + kStep) - score_at(score, x - kStep)) / (2 * kStep));
            sum += scores.back();
          }
          for (double& s : scores) s /= sum;
          for (double& d : derivatives) d /= sum;
          table.expert_shares(score, logits.f32(), experts, shares.f32(), slopes.f32());
          check_values(shares, scores, bound_of_sum(experts));
          check_values(slopes, derivatives, bound_of_sum(experts));
        }
      }
    });
  }
}

}  // namespace moe::test
