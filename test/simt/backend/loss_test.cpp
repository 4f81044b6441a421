// The router's losses and their gradients, and the update of the selection bias.
#include <doctest.h>

#include "ops/router.h"
#include "support/device.h"

namespace moe::test {
namespace {

struct Case {
  const char* name;
  RouterConfig router = {.top_k = 2};
  int64_t T = 77, E = 10, length = 0;
  float load_balance = 0, z = 0, importance = 0, load = 0;
  bool mask = false, dropped = false, expert_scale = false;
};

using enum NoiseKind;

const Case kCases[] = {
    {.name = "entropy alone"},
    {.name = "load balance", .load_balance = 0.5f},
    {.name = "load balance of sigmoid, dropped slots",
     .router = {.top_k = 3, .score = Score::sigmoid},
     .load_balance = 1,
     .mask = true,
     .dropped = true},
    {.name = "load balance of sqrtsoftplus",
     .router = {.top_k = 2, .score = Score::sqrtsoftplus},
     .load_balance = 1},
    {.name = "load balance of raw logits",
     .router = {.top_k = 2, .score = Score::identity},
     .load_balance = 1},
    {.name = "load balance of sequences", .length = 11, .load_balance = 2, .mask = true},
    {.name = "sequences of one token", .T = 40, .length = 1, .load_balance = 2, .mask = true},
    {.name = "z", .z = 0.3f, .mask = true},
    {.name = "z beside noise", .router = {.top_k = 2, .noise = {noisy_top_k, 1, 5, 6}}, .z = 1},
    {.name = "importance", .importance = 0.7f, .expert_scale = true},
    {.name = "importance, dropped slots",
     .router = {.top_k = 3, .score = Score::sigmoid, .normalize = true, .scale = 2},
     .importance = 1,
     .mask = true,
     .dropped = true},
    {.name = "load", .router = {.top_k = 2, .noise = {noisy_top_k, 1, 5, 6}}, .load = 0.8f, .mask = true},
    {.name = "load, no noise to speak of",
     .router = {.top_k = 3, .noise = {noisy_top_k, 0, 5, 6}},
     .load = 1},
    {.name = "load, every expert chosen",
     .router = {.top_k = 10, .noise = {noisy_top_k, 1, 5, 6}},
     .load = 1},
    {.name = "all together",
     .router = {.top_k = 4, .identity_experts = 3, .noise = {noisy_top_k, 0.5f, 5, 6}},
     .T = 300,
     .E = 67,
     .load_balance = 1,
     .z = 1,
     .importance = 1,
     .load = 1,
     .mask = true,
     .dropped = true},
    {.name = "all together by sequence",
     .router = {.top_k = 2, .sequence_length = 7, .by_sequence = true, .noise = {noisy_top_k, 0.5f, 5, 6}},
     .length = 7,
     .load_balance = 1,
     .z = 1,
     .importance = 1,
     .load = 1},
    {.name = "no token", .T = 0, .load_balance = 1, .z = 1, .importance = 1},
    {.name = "one token", .T = 1, .load_balance = 1, .z = 1, .importance = 1},
};

void run_case(Device& d, const Case& c, bool all_padding) {
  const int64_t K = c.router.top_k;
  Ints indices, fates, mask;
  Floats weights;
  for (int64_t t = 0; t < c.T; ++t) {
    mask.push_back(!all_padding && t % 6 != 2 ? 1 : 0);
    for (int64_t k = 0; k < K; ++k) {
      indices.push_back(static_cast<int32_t>((t * t + t / 4 + k) % c.E));
      // Positive: what differs from expert to expert is seen beside their mean.
      weights.push_back(static_cast<float>((t * 7 + k * 3) % 16 + 1) / 8);
      fates.push_back((t + k) % 4 == 0 ? static_cast<int32_t>((t + 2 * k) % 4) : 0);
    }
  }
  const bool noisy = c.router.noise.kind == noisy_top_k;
  d.run(RouterLoss{.router = c.router,
                   .logits = d.random(DType::float32, {c.T, c.E}),
                   .indices = d.ints({c.T, K}, indices),
                   .weights = d.floats(DType::float32, {c.T, K}, weights),
                   .dropped = c.dropped ? d.ints({c.T, K}, fates) : Tensor{},
                   .expert_scale = c.expert_scale
                                       ? d.random(DType::bfloat16, {c.E - c.router.identity_experts})
                                       : Tensor{},
                   .noise_logits = noisy ? d.random(DType::float32, {c.T, c.E}) : Tensor{},
                   .mask = c.mask || all_padding ? d.ints({c.T}, mask) : Tensor{},
                   .sequence_length = c.length,
                   .load_balance = c.load_balance,
                   .z = c.z,
                   .importance = c.importance,
                   .load = c.load,
                   .losses = d.out("losses", DType::float32, {4}),
                   .entropy = d.out("entropy", DType::float32, {1}),
                   .d_logits = d.out("dLogits", DType::float32, {c.T, c.E}),
                   .d_noise_logits = noisy ? d.out("dNoiseLogits", DType::float32, {c.T, c.E}) : Tensor{}});
}

}  // namespace

TEST_CASE("router losses") {
  for (const Case& c : kCases) {
    INFO(std::string(c.name));
    for (bool all_padding : {false, true}) compare([&](Device& d) { run_case(d, c, all_padding); });
  }
}

TEST_CASE("the selection bias moves against the counts") {
  for (const Ints& counts : {Ints{5, 0, 3, 3, 4}, Ints{2, 2}, Ints{7}, Ints(100, 3)}) {
    compare([&](Device& d) {
      const auto E = static_cast<int64_t>(counts.size());
      d.run(UpdateSelectionBias{.selection_bias = d.sum("selectionBias", DType::float32, {E}),
                                .counts = d.ints({E}, counts),
                                .rate = 0.1f});
    });
  }
}

TEST_CASE("experts there are not are reported by the losses") {
  CHECK_EQ(failure_of([](Device& d) {
             d.run(RouterLoss{.router = {.top_k = 1},
                              .logits = d.random(DType::float32, {2, 3}),
                              .indices = d.ints({2, 1}, {0, 3}),
                              .weights = d.random(DType::float32, {2, 1}),
                              .load_balance = 1,
                              .importance = 1,
                              .losses = d.out("losses", DType::float32, {4}),
                              .entropy = d.out("entropy", DType::float32, {1}),
                              .d_logits = d.out("dLogits", DType::float32, {2, 3})});
           }),
           "ERR_INDEX_RANGE routerLoss: indices: expected values from 0 to 2, got 3");
}

}  // namespace moe::test
