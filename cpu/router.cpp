// The router: a skinny matrix product in float32, then each token by itself. Bound by the bytes of x.
#include <algorithm>
#include <vector>

#include "cpu/backend.h"
#include "cpu/expert_gemm.h"
#include "cpu/kernels.h"
#include "cpu/loops.h"

namespace moe::cpu {
namespace {

// One group that holds every token.
struct WholeBatch {
  explicit WholeBatch(int64_t tokens) : offsets{0, static_cast<int32_t>(tokens)} {}
  int32_t offsets[2];
};

// logits = x · weightᵀ + bias
void compute_logits(const Route& op) {
  const WholeBatch batch(op.x.dim(0));
  const GroupedGemm gemm = {
      .offsets = batch.offsets,
      .n = op.weight.dim(0),
      .segments = {{.k = op.x.dim(1), .a = operand_of(op.x), .b = {operand_of(op.weight)}}},
      .exact = true};
  grouped_gemm(gemm, StoreRows{.out = op.logits, .bias = {.tensor = op.bias, .row_stride = 1}});
}

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

// In the order of tokens, so that earlier ones win; identity experts take any number.
void drop_past_capacity(const Route& op) {
  const int64_t E = op.counts.dim(0) - op.router.identity_experts;
  std::vector<int32_t> taken(static_cast<size_t>(E), 0);
  for (int64_t slot = 0; slot < op.indices.elements(); ++slot) {
    const int32_t e = op.indices.i32()[slot];
    const bool drop = e < E && taken[static_cast<size_t>(e)]++ >= op.router.capacity;
    op.dropped.i32()[slot] = drop ? 1 : 0;
    if (drop) op.weights.f32()[slot] = 0;
  }
}

}  // namespace

void run(const Route& op) {
  if (op.x) compute_logits(op);
  const int64_t T = op.logits.dim(0), E = op.logits.dim(1), K = op.router.top_k;
  const std::vector<float> expert_scale = scale_by_expert(op.expert_scale, E);
  for_chunks(T, E * static_cast<int64_t>(sizeof(float)) * K, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(4 * E));
    for (int64_t t = begin; t < end; ++t) {
      kernels().route_token({.router = op.router,
                             .experts = E,
                             .logits = op.logits.f32() + t * E,
                             .selection_bias = op.selection_bias ? op.selection_bias.f32() : nullptr,
                             .expert_scale = data_or_null(expert_scale),
                             .indices = op.indices.i32() + t * K,
                             .weights = op.weights.f32() + t * K,
                             .scratch = scratch.data()});
    }
  });
  int32_t* counts = op.counts.i32();
  std::fill_n(counts, E, 0);
  for (int64_t slot = 0; slot < T * K; ++slot) ++counts[op.indices.i32()[slot]];
  if (op.router.capacity > 0) drop_past_capacity(op);
}

namespace {

// dx (+)= d_logits · weight
void gradient_of_x(const RouteBackward& op) {
  const int64_t T = op.d_logits.dim(0), E = op.d_logits.dim(1), H = op.weight.dim(1);
  const WholeBatch batch(T);
  const GroupedGemm gemm = {
      .offsets = batch.offsets,
      .n = H,
      .segments = {{.k = E, .a = operand_of(op.d_logits), .b = {as_steps(operand_of(op.weight))}}}};
  grouped_gemm(gemm, StoreRows{.out = op.dx, .accumulate = op.accumulate_dx});
}

// d_weight (+)= d_logitsᵀ · x
void gradient_of_weight(const RouteBackward& op) {
  const int64_t T = op.d_logits.dim(0), E = op.d_logits.dim(1), H = op.x.dim(1);
  const WholeBatch batch(T);
  const GroupedGemm gemm = {
      .offsets = batch.offsets,
      .ragged = Ragged::k,
      .m = E,
      .n = H,
      .segments = {{.a = as_steps(operand_of(op.d_logits)), .b = {as_steps(operand_of(op.x))}}}};
  grouped_gemm(gemm, StoreBlock{.out = {.tensor = op.d_weight, .row_stride = H},
                                .accumulate = op.accumulate_d_weight});
}

// d_bias (+)= Σ_t d_logits[t]
void gradient_of_bias(const RouteBackward& op) {
  const int64_t E = op.d_logits.dim(1);
  const WholeBatch batch(op.d_logits.dim(0));
  sum_groups({.groups = 1,
              .offsets = batch.offsets,
              .rows = {.data = op.d_logits.data, .row_stride = E},
              .columns = E,
              .weights = nullptr,
              .out = {.tensor = op.d_bias},
              .accumulate = op.accumulate_d_bias});
}

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

// A dropped slot's weight was set to zero: nothing flows back through it.
std::vector<float> gradients_of_kept_weights(const RouteBackward& op) {
  if (!op.d_weights) return {};
  const float* given = op.d_weights.f32();
  std::vector<float> kept(given, given + op.d_weights.elements());
  for (size_t slot = 0; op.dropped && slot < kept.size(); ++slot) {
    if (op.dropped.i32()[slot] != 0) kept[slot] = 0;
  }
  return kept;
}

}  // namespace

void run(const RouteBackward& op) {
  const int64_t T = op.logits.dim(0), E = op.logits.dim(1), K = op.router.top_k;
  check_range("indices", op.indices, E);
  const std::vector<float> expert_scale = scale_by_expert(op.expert_scale, E);
  const std::vector<float> d_weights = gradients_of_kept_weights(op);
  std::vector<float> d_expert_scale(op.d_expert_scale && op.d_weights ? d_weights.size() : 0);
  for_chunks(T, E * static_cast<int64_t>(sizeof(float)) * 2, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(2 * K));
    for (int64_t t = begin; t < end; ++t) {
      kernels().route_token_backward(
          {.router = op.router,
           .experts = E,
           .logits = op.logits.f32() + t * E,
           .indices = op.indices.i32() + t * K,
           .expert_scale = data_or_null(expert_scale),
           .d_weights = op.d_weights ? d_weights.data() + t * K : nullptr,
           .extra = op.extra_d_logits ? op.extra_d_logits.f32() + t * E : nullptr,
           .d_logits = op.d_logits.f32() + t * E,
           .d_expert_scale = d_expert_scale.empty() ? nullptr : d_expert_scale.data() + t * K,
           .scratch = scratch.data()});
    }
  });
  if (op.dx) gradient_of_x(op);
  if (op.d_weight) gradient_of_weight(op);
  if (op.d_bias) gradient_of_bias(op);
  if (op.d_expert_scale) gradient_of_expert_scale(op, d_expert_scale);
}

}  // namespace moe::cpu
