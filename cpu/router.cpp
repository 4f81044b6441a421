// The router: logits, then each token by itself, then who is dropped. Bound by the bytes of x, or of the
// logits where they are given.
#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/backend.h"
#include "cpu/capacity.h"
#include "cpu/kernels.h"
#include "cpu/loops.h"
#include "cpu/router_logits.h"
#include "cpu/router_noise.h"
#include "cpu/stages.h"

namespace moe::cpu {
namespace {

// One factor for each logit, in float32; identity experts have 1. Empty where there is none.
std::vector<float> scale_by_expert(const Tensor& expert_scale, int64_t experts) {
  if (!expert_scale) return {};
  std::vector<float> scale(static_cast<size_t>(experts), 1.0f);
  kernels().cast(expert_scale.data, expert_scale.dtype, scale.data(), DType::float32,
                 expert_scale.elements());
  return scale;
}

const float* data_or_null(const std::vector<float>& values) {
  return values.empty() ? nullptr : values.data();
}

bool is_padding(const Tensor& mask, int64_t token) {
  return mask && mask.i32()[token] == 0;
}

void copy(const Tensor& from, const Tensor& to) {
  if (from) std::memcpy(to.data, from.data, from.bytes());
}

// What averaging over a sequence does to its rows, forward and backward: both are a weighted sum of all rows
// that is then handed to every row.
struct SequenceMean {
  const RouterConfig& router;
  const Tensor& mask;

  // Each row becomes the mean of the rows that are not padding; zeros where all are.
  void forward(const Tensor& rows) const {
    run(rows, [&](int64_t t) { return is_padding(mask, t) ? 0.0f : 1.0f; }, [](int64_t) { return 1.0f; });
  }

  // Each row that is not padding takes part in all of them.
  void backward(const Tensor& d_rows) const {
    run(d_rows, [](int64_t) { return 1.0f; }, [&](int64_t t) { return is_padding(mask, t) ? 0.0f : 1.0f; });
  }

 private:
  template <class In, class Out>
  void run(const Tensor& rows, In weight_in, Out weight_out) const {
    if (!router.by_sequence || !rows) return;
    const int64_t L = router.sequence_length, E = rows.dim(1);
    for_chunks(rows.dim(0) / L, 2 * L * E * 4, [&](int64_t begin, int64_t end) {
      std::vector<float> sum(static_cast<size_t>(E));
      for (int64_t first = begin * L; first < end * L; first += L) {
        std::fill(sum.begin(), sum.end(), 0.0f);
        float counted = 0;
        for (int64_t t = first; t < first + L; ++t) {
          counted += is_padding(mask, t) ? 0.0f : 1.0f;
          if (weight_in(t) == 0) continue;
          for (int64_t e = 0; e < E; ++e) sum[static_cast<size_t>(e)] += rows.f32()[t * E + e];
        }
        for (int64_t t = first; t < first + L; ++t) {
          const float share = counted > 0 ? weight_out(t) / counted : 0.0f;
          for (int64_t e = 0; e < E; ++e)
            rows.f32()[t * E + e] = share == 0 ? 0.0f : share * sum[static_cast<size_t>(e)];
        }
      }
    });
  }
};

// Experts and weights of every token; padding takes none.
void route_tokens(const Route& op) {
  const int64_t T = op.logits.dim(0), E = op.logits.dim(1), K = op.router.top_k;
  const std::vector<float> expert_scale = scale_by_expert(op.expert_scale, E);
  for_chunks(T, E * static_cast<int64_t>(sizeof(float)) * K, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(4 * E));
    for (int64_t t = begin; t < end; ++t) {
      float* weights = op.weights.f32() + t * K;
      int64_t taken =
          kernels().route_token({.router = op.router,
                                 .experts = E,
                                 .logits = op.logits.f32() + t * E,
                                 .selection_bias = op.selection_bias ? op.selection_bias.f32() : nullptr,
                                 .expert_scale = data_or_null(expert_scale),
                                 .indices = op.indices.i32() + t * K,
                                 .weights = weights,
                                 .scratch = scratch.data()});
      if (!op.dropped) continue;
      if (is_padding(op.mask, t)) {
        taken = 0;
        std::fill_n(weights, K, 0.0f);
      }
      int32_t* fate = op.dropped.i32() + t * K;
      std::fill_n(fate, taken, static_cast<int32_t>(SlotFate::served));
      std::fill(fate + taken, fate + K, static_cast<int32_t>(SlotFate::untaken));
    }
  });
}

// Slots of each expert; `counted` says which.
template <class Counted>
void count_slots(const Route& op, Counted counted) {
  int32_t* counts = op.counts.i32();
  std::fill_n(counts, op.counts.dim(0), 0);
  for (int64_t slot = 0; slot < op.indices.elements(); ++slot) {
    const auto fate = op.dropped ? static_cast<SlotFate>(op.dropped.i32()[slot]) : SlotFate::served;
    if (counted(fate)) ++counts[op.indices.i32()[slot]];
  }
}

}  // namespace

void run(const Route& op) {
  StageTimer stage("logits");
  copy(op.given_logits, op.logits);
  copy(op.given_noise_logits, op.noise_logits);
  if (op.given_indices) {
    check_range("indices", op.given_indices, op.logits.dim(1));
    copy(op.given_indices, op.indices);
  }
  if (op.x) project_logits(op);
  const SequenceMean mean{.router = op.router, .mask = op.mask};
  mean.forward(op.logits);
  mean.forward(op.noise_logits);
  add_noise(op.router, op.noise_logits, op.logits);
  stage.next("choice");
  route_tokens(op);
  const bool experts_choose = op.router.choice == Choice::all && op.router.capacity.rows_per_expert > 0;
  if (!experts_choose) count_slots(op, [](SlotFate fate) { return fate != SlotFate::untaken; });
  if (op.router.capacity.rows_per_expert > 0) {
    stage.next("capacity");
    apply_capacity(op);
  }
  if (experts_choose) count_slots(op, [](SlotFate fate) { return fate == SlotFate::served; });
}

namespace {

// d_expert_scale (+)= Σ of the slots' contributions, in their order.
void gradient_of_expert_scale(const RouteBackward& op, const std::vector<float>& contributions) {
  std::vector<float> sums(static_cast<size_t>(op.logits.dim(1)), 0.0f);
  for (size_t slot = 0; slot < contributions.size(); ++slot) {
    sums[static_cast<size_t>(op.indices.i32()[slot])] += contributions[slot];
  }
  const void* row = sums.data();
  kernels().sum_rows({.rows = &row,
                      .weights = nullptr,
                      .count = 1,
                      .width = op.d_expert_scale.elements(),
                      .dtype = DType::float32,
                      .out = op.d_expert_scale.data,
                      .out_dtype = op.d_expert_scale.dtype,
                      .accumulate = op.accumulate_d_expert_scale});
}

// The weight of a slot that is not served is a constant: nothing flows back through it.
std::vector<float> gradients_of_served_weights(const RouteBackward& op) {
  if (!op.d_weights) return {};
  const float* given = op.d_weights.f32();
  std::vector<float> served(given, given + op.d_weights.elements());
  for (size_t slot = 0; op.dropped && slot < served.size(); ++slot) {
    if (op.dropped.i32()[slot] != static_cast<int32_t>(SlotFate::served)) served[slot] = 0;
  }
  return served;
}

// d_logits of what was scored, from the gradients of the weights.
void route_tokens_backward(const RouteBackward& op) {
  const int64_t T = op.logits.dim(0), E = op.logits.dim(1), K = op.router.top_k;
  const std::vector<float> expert_scale = scale_by_expert(op.expert_scale, E);
  const std::vector<float> d_weights = gradients_of_served_weights(op);
  std::vector<float> d_expert_scale(op.d_expert_scale && op.d_weights ? d_weights.size() : 0);
  for_chunks(T, E * static_cast<int64_t>(sizeof(float)) * 2, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(2 * K));
    for (int64_t t = begin; t < end; ++t) {
      // Whatever the logits of padding are, nothing flows back to them.
      const bool weighs = op.d_weights && !is_padding(op.mask, t);
      kernels().route_token_backward(
          {.router = op.router,
           .experts = E,
           .logits = op.logits.f32() + t * E,
           .indices = op.indices.i32() + t * K,
           .expert_scale = data_or_null(expert_scale),
           .d_weights = weighs ? d_weights.data() + t * K : nullptr,
           .extra = op.extra_d_logits ? op.extra_d_logits.f32() + t * E : nullptr,
           .d_logits = op.d_logits.f32() + t * E,
           .d_expert_scale = d_expert_scale.empty() ? nullptr : d_expert_scale.data() + t * K,
           .scratch = scratch.data()});
    }
  });
  if (op.d_expert_scale) gradient_of_expert_scale(op, d_expert_scale);
}

void gradient_of_logits(const RouteBackward& op) {
  const StageTimer stage("dLogits");
  route_tokens_backward(op);
  if (op.d_noise_logits)
    noise_backward(op.router, op.noise_logits, op.d_logits, op.extra_d_noise_logits, op.d_noise_logits);
  const SequenceMean mean{.router = op.router, .mask = op.mask};
  mean.backward(op.d_logits);
  mean.backward(op.d_noise_logits);
}

}  // namespace

void run(const RouteBackward& op) {
  check_range("indices", op.indices, op.logits.dim(1));
  gradient_of_logits(op);
  project_logits_backward(op);
}

}  // namespace moe::cpu
