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
  const int64_t H = op.x.dim(1);
  const GroupedGemm gemm = {.offsets = batch.offsets,
                            .n = op.weight.dim(0),
                            .k = H,
                            .a = {.data = op.x.data, .dtype = op.x.dtype, .row_stride = H},
                            .b = {{.data = op.weight.data, .dtype = op.weight.dtype, .row_stride = H}},
                            .exact = true};
  grouped_gemm(gemm, StoreRows{.out = op.logits, .bias = {.tensor = op.bias, .row_stride = 1}});
}

}  // namespace

void run(const Route& op) {
  if (op.x) compute_logits(op);
  const int64_t T = op.logits.dim(0), E = op.logits.dim(1), K = op.router.top_k;
  for_chunks(T, E * static_cast<int64_t>(sizeof(float)) * K, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> scratch(static_cast<size_t>(E));
    for (int64_t t = begin; t < end; ++t) {
      kernels().route_token(op.router, op.logits.f32() + t * E, E, op.indices.i32() + t * K,
                            op.weights.f32() + t * K, scratch.data());
    }
  });
  int32_t* counts = op.counts.i32();
  std::fill_n(counts, E, 0);
  for (int64_t slot = 0; slot < T * K; ++slot) ++counts[op.indices.i32()[slot]];
}

namespace {

// dx (+)= d_logits · weight
void gradient_of_x(const RouteBackward& op) {
  const int64_t T = op.d_logits.dim(0), E = op.d_logits.dim(1), H = op.weight.dim(1);
  const WholeBatch batch(T);
  const GroupedGemm gemm = {.offsets = batch.offsets,
                            .n = H,
                            .k = E,
                            .a = {.data = op.d_logits.data, .row_stride = E},
                            .b = {{.data = op.weight.data, .dtype = op.weight.dtype, .row_stride = H}},
                            .b_k_contiguous = false};
  grouped_gemm(gemm, StoreRows{.out = op.dx, .accumulate = op.accumulate_dx});
}

// d_weight (+)= d_logitsᵀ · x
void gradient_of_weight(const RouteBackward& op) {
  const int64_t T = op.d_logits.dim(0), E = op.d_logits.dim(1), H = op.x.dim(1);
  const WholeBatch batch(T);
  const GroupedGemm gemm = {.offsets = batch.offsets,
                            .ragged = Ragged::k,
                            .m = E,
                            .n = H,
                            .a = {.data = op.d_logits.data, .row_stride = E},
                            .a_k_contiguous = false,
                            .b = {{.data = op.x.data, .dtype = op.x.dtype, .row_stride = H}},
                            .b_k_contiguous = false};
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

}  // namespace

void run(const RouteBackward& op) {
  const int64_t T = op.logits.dim(0), E = op.logits.dim(1), K = op.router.top_k;
  check_range("indices", op.indices, E);
  for_chunks(T, E * static_cast<int64_t>(sizeof(float)) * 2, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(2 * K));
    for (int64_t t = begin; t < end; ++t) {
      kernels().route_token_backward(op.router, op.logits.f32() + t * E, E, op.indices.i32() + t * K,
                                     op.d_weights ? op.d_weights.f32() + t * K : nullptr,
                                     op.extra_d_logits ? op.extra_d_logits.f32() + t * E : nullptr,
                                     op.d_logits.f32() + t * E, scratch.data());
    }
  });
  if (op.dx) gradient_of_x(op);
  if (op.d_weight) gradient_of_weight(op);
  if (op.d_bias) gradient_of_bias(op);
}

}  // namespace moe::cpu
