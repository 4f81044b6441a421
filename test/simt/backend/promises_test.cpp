// What holds of every op: a token's output does not depend on its company, and memory is given back.
#include <doctest.h>

#include <algorithm>

#include "ops/gpus.h"
#include "ops/router.h"
#include "simt/control.h"
#include "support/device.h"

namespace moe::test {
namespace {

constexpr int64_t kTokens = 90, kHidden = 72, kIntermediate = 40, kExperts = 6;
constexpr int kTopK = 2;

// A layer over the tokens from `first` on, whose rows are always the same: y and the gradient of x.
void run_layer(Device& d, DType dtype, int64_t first, int64_t tokens) {
  const auto rows_of = [&](int64_t period) {
    Floats values;
    for (int64_t i = first * kHidden; i < (first + tokens) * kHidden; ++i)
      values.push_back(static_cast<float>(i * period % 1009) / 300.0f - 1.7f);
    return d.floats(dtype, {tokens, kHidden}, values);
  };
  Experts experts;
  experts.parameters[Projection::gate_up].weight = d.random(dtype, {kExperts, 2 * kIntermediate, kHidden});
  experts.parameters[Projection::down].weight = d.random(dtype, {kExperts, kHidden, kIntermediate});
  const Tensor router = d.random(dtype, {kExperts, kHidden});
  const Tensor x = rows_of(37), indices = d.out("indices", DType::int32, {tokens, kTopK});
  const Tensor weights = d.out("weights", DType::float32, {tokens, kTopK});
  d.run(Route{.router = {.top_k = kTopK},
              .x = x,
              .parameters = {.weight = router},
              .logits = d.out("logits", DType::float32, {tokens, kExperts}),
              .indices = indices,
              .weights = weights,
              .counts = d.ints({kExperts}, Ints(kExperts, 0))});
  const Tensor offsets = d.ints({kExperts + 1}, Ints(kExperts + 1, 0));
  const Tensor row_slot = d.ints({tokens * kTopK}, Ints(static_cast<size_t>(tokens * kTopK), 0));
  const Tensor slot_row = d.ints({tokens, kTopK}, Ints(static_cast<size_t>(tokens * kTopK), 0));
  d.run(Dispatch{.indices = indices, .offsets = offsets, .row_slot = row_slot, .slot_row = slot_row});
  const ActivationSpec swiglu = {.function = Activation::swiglu};
  d.run(ExpertsForward{.activation = swiglu,
                       .x = x,
                       .offsets = offsets,
                       .row_slot = row_slot,
                       .slot_row = slot_row,
                       .weights = weights,
                       .experts = experts,
                       .y = d.out("y", dtype, {tokens, kHidden})});
  ExpertTensors gradients;
  for (Projection p : {Projection::gate_up, Projection::down}) {
    const Tensor& weight = experts.parameters[p].weight;
    gradients[p].weight = d.random(dtype, Shape(weight.shape().begin(), weight.shape().end()));
  }
  d.run(ExpertsBackward{.activation = swiglu,
                        .dy = rows_of(53),
                        .x = x,
                        .offsets = offsets,
                        .row_slot = row_slot,
                        .slot_row = slot_row,
                        .weights = weights,
                        .experts = experts,
                        .dx = d.out("dx", dtype, {tokens, kHidden}),
                        .d_weights = d.out("dWeights", DType::float32, {tokens, kTopK}),
                        .gradients = gradients});
}

std::vector<Device::Output> layer(DType dtype, int64_t first, int64_t tokens) {
  Device device(cuda::make_queue(0));
  run_layer(device, dtype, first, tokens);
  return device.read_outputs();
}

}  // namespace

TEST_CASE("a token's output has the same bits in any company") {
  for (DType dtype : {DType::float32, DType::bfloat16}) {
    const std::vector<Device::Output> all = layer(dtype, 0, kTokens);
    for (int64_t first : {int64_t{0}, int64_t{17}, kTokens - 1}) {
      const int64_t tokens = std::min<int64_t>(3, kTokens - first);
      const std::vector<Device::Output> few = layer(dtype, first, tokens);
      for (size_t i = 0; i < all.size(); ++i) {
        const size_t width = all[i].bits.size() / kTokens;
        const bool same = std::equal(few[i].bits.begin(), few[i].bits.end(),
                                     all[i].bits.begin() + static_cast<int64_t>(width) * first);
        CHECK_MESSAGE(same, all[i].name, " of tokens from ", first);
      }
    }
  }
}

TEST_CASE("what an op worked in is given back") {
  cuda::trim_pools();
  const size_t before = simt::bytes_in_use();
  layer(DType::bfloat16, 0, kTokens);
  cuda::trim_pools();
  CHECK_EQ(simt::bytes_in_use(), before);
}

}  // namespace moe::test
