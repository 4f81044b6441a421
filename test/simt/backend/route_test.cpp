// The router, forward and backward, with every option.
#include <doctest.h>

#include "ops/router.h"
#include "support/device.h"

namespace moe::test {
namespace {

struct Case {
  const char* name;
  RouterConfig router;
  int64_t T = 37, H = 41, E = 12;
  DType x = DType::float32, weight = DType::float32;
  bool bias = false, selection_bias = false, expert_scale = false, mask = false, lora = false;
  bool accumulate = false;
};

using enum NoiseKind;

const Case kCases[] = {
    {.name = "softmax", .router = {.top_k = 2}, .bias = true},
    {.name = "softmax over the selected",
     .router = {.top_k = 3, .softmax_over = SoftmaxOver::selected},
     .accumulate = true},
    {.name = "sigmoid, groups by top2sum",
     .router = {.top_k = 3,
                .score = Score::sigmoid,
                .group_count = 4,
                .group_top = 2,
                .group_score = GroupScore::top2sum,
                .normalize = true,
                .normalize_eps = 1e-20f,
                .scale = 2.5f},
     .selection_bias = true,
     .expert_scale = true},
    {.name = "softmax, groups by max, mask -inf",
     .router = {.top_k = 4, .group_count = 3, .group_top = 2, .group_mask_value = -INFINITY, .scale = 16}},
    {.name = "sqrtsoftplus",
     .router = {.top_k = 5, .score = Score::sqrtsoftplus, .normalize = true},
     .selection_bias = true},
    {.name = "identity score, least sum",
     .router = {.top_k = 2, .score = Score::identity, .normalize = true, .normalize_min = 0.25f},
     .expert_scale = true},
    {.name = "sparsemixer", .router = {.top_k = 2, .score = Score::sparsemixer, .jitter_eps = 0.1f}},
    {.name = "top-p", .router = {.top_k = 6, .top_p = 0.6f, .normalize = true}, .mask = true},
    {.name = "soft mixture", .router = {.top_k = 12, .choice = Choice::all}},
    {.name = "expert choice",
     .router = {.top_k = 12,
                .choice = Choice::all,
                .capacity = {.rows_per_expert = 5, .policy = DropPolicy::probability}},
     .mask = true},
    {.name = "given experts", .router = {.top_k = 2, .choice = Choice::given, .score = Score::sigmoid}},
    {.name = "capacity by position", .router = {.top_k = 2, .capacity = {.rows_per_expert = 4}}},
    {.name = "capacity by probability, residual",
     .router = {.top_k = 2,
                .capacity = {.rows_per_expert = 3, .policy = DropPolicy::probability, .residual = true}},
     .mask = true},
    {.name = "capacity of sequences",
     .router = {.top_k = 2,
                .sequence_length = 12,
                .capacity = {.rows_per_expert = 2, .by_sequence = true, .policy = DropPolicy::probability}},
     .T = 36},
    {.name = "by sequence",
     .router = {.top_k = 2, .sequence_length = 9, .by_sequence = true},
     .T = 36,
     .mask = true},
    {.name = "identity experts",
     .router = {.top_k = 3, .identity_experts = 5, .capacity = {.rows_per_expert = 6}},
     .expert_scale = true},
    {.name = "jitter", .router = {.top_k = 2, .noise = {jitter, 0.1f, 77, 5}}, .accumulate = true},
    {.name = "jitter in bfloat16",
     .router = {.top_k = 2, .noise = {jitter, 0.1f, 77, 5}},
     .x = DType::bfloat16,
     .weight = DType::bfloat16,
     .accumulate = true},
    {.name = "gumbel", .router = {.top_k = 2, .noise = {gumbel, 0.7f, 0x123456789abcdef0u, 3}}},
    {.name = "noisy top-k", .router = {.top_k = 3, .noise = {noisy_top_k, 0.5f, 99, uint64_t{1} << 40}}},
    {.name = "noisy top-k by sequence",
     .router = {.top_k = 3, .sequence_length = 6, .by_sequence = true, .noise = {noisy_top_k, 1.0f, 99, 4}},
     .T = 36},
    {.name = "low rank", .router = {.top_k = 2}, .lora = true, .accumulate = true},
    {.name = "low rank in bfloat16",
     .router = {.top_k = 2},
     .x = DType::bfloat16,
     .weight = DType::bfloat16,
     .lora = true},
    {.name = "bfloat16 tokens, float32 router",
     .router = {.top_k = 2, .score = Score::sigmoid},
     .x = DType::bfloat16,
     .bias = true},
    {.name = "float16", .router = {.top_k = 2}, .x = DType::float16, .weight = DType::float16, .bias = true},
    {.name = "no token", .router = {.top_k = 2, .capacity = {.rows_per_expert = 3}}, .T = 0, .bias = true},
    {.name = "one token, one expert", .router = {}, .T = 1, .H = 1, .E = 1},
    {.name = "more tokens than a tile", .router = {.top_k = 2}, .T = 530, .bias = true},
    {.name = "a tile of all experts",
     .router = {.top_k = 8, .normalize = true},
     .T = 35,
     .E = 256,
     .mask = true},
    {.name = "more experts than a tile", .router = {.top_k = 8}, .T = 35, .E = 257},
    {.name = "many experts", .router = {.top_k = 32, .normalize = true}, .T = 5, .E = 1024},
};

Ints mask_of(int64_t T) {
  Ints mask;
  for (int64_t t = 0; t < T; ++t) mask.push_back(t % 5 == 3 ? 0 : 1);
  return mask;
}

Ints given_of(const Case& c) {
  Ints given;
  for (int64_t slot = 0; slot < c.T * c.router.top_k; ++slot)
    given.push_back(static_cast<int32_t>(slot * 7 % 5 * 2 % c.E));
  return given;
}

RouterMatrices parameters_of(Device& d, const Case& c) {
  constexpr int64_t kRank = 3;
  return {.weight = d.random(c.weight, {c.E, c.H}),
          .bias = c.bias ? d.random(DType::float32, {c.E}) : Tensor{},
          .noise_weight = c.router.noise.kind == noisy_top_k ? d.random(c.weight, {c.E, c.H}) : Tensor{},
          .lora_a = c.lora ? d.random(c.weight, {kRank, c.H}) : Tensor{},
          .lora_b = c.lora ? d.random(c.weight, {c.E, kRank}) : Tensor{}};
}

// Gradients shaped as parameters are.
RouterMatrices gradients_of(Device& d, const Case& c, const RouterMatrices& parameters) {
  const auto gradient = [&](const char* name, const Tensor& of) {
    if (!of) return Tensor{};
    const Shape shape(of.shape().begin(), of.shape().end());
    return c.accumulate ? d.sum(name, of.dtype, shape) : d.out(name, of.dtype, shape);
  };
  return {.weight = gradient("dWeight", parameters.weight),
          .bias = gradient("dBias", parameters.bias),
          .noise_weight = gradient("dNoiseWeight", parameters.noise_weight),
          .lora_a = gradient("dLoraA", parameters.lora_a),
          .lora_b = gradient("dLoraB", parameters.lora_b)};
}

bool drops(const Case& c) {
  return c.mask || c.router.top_p > 0 || c.router.capacity.rows_per_expert > 0;
}

Route route_of(Device& d, const Case& c) {
  const int64_t K = c.router.top_k, computed = c.E - c.router.identity_experts;
  const bool noisy = c.router.noise.kind == noisy_top_k;
  return {.router = c.router,
          .x = d.random(c.x, {c.T, c.H}),
          .parameters = parameters_of(d, c),
          .lora_scale = 0.5f,
          .given_indices = c.router.choice == Choice::given ? d.ints({c.T, K}, given_of(c)) : Tensor{},
          .mask = c.mask ? d.ints({c.T}, mask_of(c.T)) : Tensor{},
          .selection_bias = c.selection_bias ? d.random(DType::float32, {c.E}) : Tensor{},
          .expert_scale = c.expert_scale ? d.random(c.weight, {computed}) : Tensor{},
          .logits = d.out("logits", DType::float32, {c.T, c.E}),
          .noise_logits = noisy ? d.out("noiseLogits", DType::float32, {c.T, c.E}) : Tensor{},
          .indices = d.out("indices", DType::int32, {c.T, K}),
          .weights = d.out("weights", DType::float32, {c.T, K}),
          .counts = d.out("counts", DType::int32, {c.E}),
          .dropped = drops(c) ? d.out("dropped", DType::int32, {c.T, K}) : Tensor{}};
}

void backward(Device& d, const Case& c, const Route& route, bool weights_have_gradients) {
  const int64_t K = c.router.top_k;
  const bool noisy = route.noise_logits.present;
  const auto out = [&](const char* name, DType dtype, const Shape& shape) {
    return c.accumulate ? d.sum(name, dtype, shape) : d.out(name, dtype, shape);
  };
  const bool add = c.accumulate;
  d.run(RouteBackward{
      .router = c.router,
      .logits = route.logits,
      .indices = route.indices,
      .noise_logits = route.noise_logits,
      .dropped = route.dropped,
      .mask = route.mask,
      .expert_scale = route.expert_scale,
      .d_weights = weights_have_gradients ? d.random(DType::float32, {c.T, K}) : Tensor{},
      .extra_d_logits = c.bias || !weights_have_gradients ? d.random(DType::float32, {c.T, c.E}) : Tensor{},
      .extra_d_noise_logits = noisy ? d.random(DType::float32, {c.T, c.E}) : Tensor{},
      .x = route.x,
      .parameters = route.parameters,
      .lora_scale = route.lora_scale,
      .d_logits = d.out("dLogits", DType::float32, {c.T, c.E}),
      .d_noise_logits = noisy ? d.out("dNoiseLogits", DType::float32, {c.T, c.E}) : Tensor{},
      .dx = out("dx", c.x, {c.T, c.H}),
      .d_parameters = gradients_of(d, c, route.parameters),
      .d_expert_scale =
          c.expert_scale ? out("dExpertScale", c.weight, {c.E - c.router.identity_experts}) : Tensor{},
      .accumulate_dx = add,
      .accumulate_d_expert_scale = add,
      .accumulate = {.weight = add, .bias = add, .noise_weight = add, .lora_a = add, .lora_b = add}});
}

}  // namespace

TEST_CASE("routers, forward and backward") {
  for (const Case& c : kCases) {
    INFO(std::string(c.name));
    for (bool weights_have_gradients : {true, false}) {
      compare([&](Device& d) {
        const Route route = route_of(d, c);
        d.run(route);
        backward(d, c, route, weights_have_gradients);
      });
    }
  }
}

TEST_CASE("fused with the product of the logits or after it, a token is routed alike") {
  const int64_t T = 150, H = 75, K = 3;
  for (int64_t E : {int64_t{9}, int64_t{128}, int64_t{200}}) {
    const auto outputs = [&](bool fused) {
      Device d(cuda::make_queue(0));
      const auto zeros = [&](const Shape& shape) {
        return d.floats(DType::float32, shape, Floats(static_cast<size_t>(shape[0] * shape[1]), 0.0f));
      };
      Route route = {
          .router = {.top_k = K},
          .x = d.random(DType::float32, {T, H}),
          .parameters = {.weight = d.random(DType::float32, {E, H}), .bias = d.random(DType::float32, {E})},
          .logits = d.out("logits", DType::float32, {T, E}),
          .indices = d.out("indices", DType::int32, {T, K}),
          .weights = d.out("weights", DType::float32, {T, K}),
          .counts = d.out("counts", DType::int32, {E})};
      // A low-rank pair of zeros adds nothing, but a product.
      if (!fused) route.parameters.lora_a = zeros({1, H});
      if (!fused) route.parameters.lora_b = zeros({E, 1});
      d.run(route);
      return d.read_outputs();
    };
    const auto fused = outputs(true), apart = outputs(false);
    for (size_t i = 0; i < fused.size(); ++i) CHECK_MESSAGE(fused[i].bits == apart[i].bits, fused[i].name);
  }
}

TEST_CASE("equal scores go to the lower id, NaN to nobody") {
  const int64_t T = 9, E = 40, K = 7;
  Floats logits;
  for (int64_t i = 0; i < T * E; ++i) logits.push_back(i % 11 == 4 ? NAN : static_cast<float>(i * i % 4));
  for (float& logit : logits) logit = logit == 0 ? -0.0f : logit;
  for (Score score : {Score::softmax, Score::identity}) {
    compare([&](Device& d) {
      d.run(Route{.router = {.top_k = K, .score = score, .softmax_over = SoftmaxOver::selected},
                  .given_logits = d.floats(DType::float32, {T, E}, logits),
                  .logits = d.out("logits", DType::float32, {T, E}, Match::exactly),
                  .indices = d.out("indices", DType::int32, {T, K}),
                  .weights = d.out("weights", DType::float32, {T, K}),
                  .counts = d.out("counts", DType::int32, {E})});
    });
  }
}

TEST_CASE("noise has the CPU's bits") {
  const int64_t T = 50, E = 21;
  for (RouterNoise noise : {RouterNoise{gumbel, 1, 42, 7}, RouterNoise{noisy_top_k, 1, 42, 7},
                            RouterNoise{gumbel, 0.3f, ~uint64_t{0}, uint64_t{1} << 63}}) {
    compare([&](Device& d) {
      const bool noisy = noise.kind == noisy_top_k;
      const Floats zeros(static_cast<size_t>(T * E), 0.0f);
      d.run(Route{
          .router = {.top_k = 1, .noise = noise},
          .given_logits = d.random(DType::float32, {T, E}),
          .given_noise_logits = noisy ? d.floats(DType::float32, {T, E}, zeros) : Tensor{},
          .logits = d.out("logits", DType::float32, {T, E}, Match::exactly),
          .noise_logits = noisy ? d.out("noiseLogits", DType::float32, {T, E}, Match::exactly) : Tensor{},
          .indices = d.out("indices", DType::int32, {T, 1}),
          .weights = d.out("weights", DType::float32, {T, 1}),
          .counts = d.out("counts", DType::int32, {E})});
    });
  }
}

TEST_CASE("jitter has the CPU's bits") {
  const int64_t T = 13, H = 30;
  Floats unit(static_cast<size_t>(H * H), 0.0f);
  for (int64_t h = 0; h < H; ++h) unit[static_cast<size_t>(h * H + h)] = 1;
  for (DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
    compare([&](Device& d) {
      d.run(Route{.router = {.top_k = 1, .noise = {jitter, 0.1f, 3, 1}},
                  .x = d.random(dtype, {T, H}),
                  .parameters = {.weight = d.floats(dtype, {H, H}, unit)},
                  .logits = d.out("logits", DType::float32, {T, H}, Match::exactly),
                  .indices = d.out("indices", DType::int32, {T, 1}),
                  .weights = d.out("weights", DType::float32, {T, 1}),
                  .counts = d.out("counts", DType::int32, {H})});
    });
  }
}

TEST_CASE("experts there are not are reported, and nothing touched there") {
  const int64_t T = 2, E = 3, K = 2;
  for (int32_t bad : {3, -1}) {
    const Ints indices = {0, 1, bad, 2};
    const std::string sentence =
        std::string("indices: expected values from 0 to 2, got ") + std::to_string(bad);
    CHECK_EQ(failure_of([&](Device& d) {
               d.run(Route{.router = {.top_k = K, .choice = Choice::given},
                           .given_logits = d.random(DType::float32, {T, E}),
                           .given_indices = d.ints({T, K}, indices),
                           .logits = d.out("logits", DType::float32, {T, E}),
                           .indices = d.out("indices", DType::int32, {T, K}),
                           .weights = d.out("weights", DType::float32, {T, K}),
                           .counts = d.out("counts", DType::int32, {E})});
             }),
             "ERR_INDEX_RANGE route: " + sentence);
    CHECK_EQ(failure_of([&](Device& d) {
               d.run(RouteBackward{.router = {.top_k = K},
                                   .logits = d.random(DType::float32, {T, E}),
                                   .indices = d.ints({T, K}, indices),
                                   .d_weights = d.random(DType::float32, {T, K}),
                                   .d_logits = d.out("dLogits", DType::float32, {T, E})});
             }),
             "ERR_INDEX_RANGE routeBackward: " + sentence);
  }
}

}  // namespace moe::test
