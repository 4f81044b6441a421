#include "cpu/router_logits.h"

#include <memory>

#include "cpu/expert_gemm.h"
#include "cpu/kernels.h"
#include "cpu/loops.h"
#include "cpu/router_noise.h"
#include "cpu/stages.h"
#include "cpu/workspace.h"

namespace moe::cpu {
namespace {

// out = scale · left · rightᵀ + bias, or added to out
struct Projection {
  Tensor bias;
  float scale = 1;
  bool accumulate = false;
};
void project(const Tensor& left, const Tensor& right, const Tensor& out, const Projection& how) {
  GroupedGemm gemm = times_transposed(left, right);
  gemm.exact = true;
  grouped_gemm(gemm, StoreRows{.out = out,
                               .scale = how.scale,
                               .bias = {.tensor = how.bias, .row_stride = 1},
                               .accumulate = how.accumulate});
}

// out (+)= scale · left · right
void multiply(const Tensor& left, const Tensor& right, const Tensor& out, bool accumulate, float scale = 1) {
  grouped_gemm(times(left, right), StoreRows{.out = out, .scale = scale, .accumulate = accumulate});
}

// out (+)= leftᵀ · right, summed over the tokens in their order
void multiply_tokens(const Tensor& left, const Tensor& right, const Tensor& out, bool accumulate) {
  grouped_gemm(transposed_times(left, right),
               store_block({.tensor = out, .row_stride = right.dim(1)}, accumulate));
}

// out (+)= Σ_t rows[t]
void sum_tokens(const Tensor& rows, const Tensor& out, bool accumulate) {
  sum_groups({.groups = {.count = rows.dim(0)},
              .rows = operand_of(rows),
              .columns = rows.dim(1),
              .weights = nullptr,
              .out = {.tensor = out},
              .accumulate = accumulate});
}

// out (+)= rows, in out's dtype
void add_rows(const Tensor& rows, const Tensor& out, bool accumulate) {
  const int64_t width = rows.dim(1);
  for_chunks(rows.dim(0), 8 * width, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const void* row = row_of(rows, t, width);
      kernels().sum_rows({.rows = &row,
                          .weights = nullptr,
                          .count = 1,
                          .width = width,
                          .dtype = rows.dtype,
                          .out = mutable_row_of(out, t, width),
                          .out_dtype = out.dtype,
                          .accumulate = accumulate});
    }
  });
}

// What the router sees of x: x itself, or x with jitter.
class RouterInput {
 public:
  RouterInput(const RouterNoise& noise, const Tensor& x) : tensor_(x) {
    if (noise.kind != NoiseKind::jitter || !x) return;
    jittered_ = std::make_unique<Workspace>(x.dim(0), x.dim(1), DType::float32);
    jitter_rows(noise, x, jittered_->tensor);
    tensor_ = jittered_->tensor;
  }

  const Tensor& tensor() const { return tensor_; }

 private:
  Tensor tensor_;
  std::unique_ptr<Workspace> jittered_;
};

// scale · (x · lora_aᵀ), [T, r]
Workspace low_rank_rows(const Tensor& x, const Tensor& lora_a, float scale) {
  Workspace rows(x.dim(0), lora_a.dim(0), DType::float32);
  project(x, lora_a, rows.tensor, {.scale = scale});
  return rows;
}

// scale · (d_logits · lora_b), [T, r]
Workspace low_rank_gradient(const RouteBackward& op) {
  Workspace rows(op.d_logits.dim(0), op.parameters.lora_b.dim(1), DType::float32);
  multiply(op.d_logits, op.parameters.lora_b, rows.tensor, false, op.lora_scale);
  return rows;
}

// Gradients of the rows that the products read.
void gradient_of_rows(const RouteBackward& op, const Tensor& out, bool accumulate) {
  multiply(op.d_logits, op.parameters.weight, out, accumulate);
  if (op.parameters.noise_weight) multiply(op.d_noise_logits, op.parameters.noise_weight, out, true);
  if (op.parameters.lora_a) multiply(low_rank_gradient(op).tensor, op.parameters.lora_a, out, true);
}

void gradient_of_x(const RouteBackward& op) {
  const StageTimer stage("dx");
  if (op.router.noise.kind != NoiseKind::jitter) return gradient_of_rows(op, op.dx, op.accumulate_dx);
  const Workspace rows(op.dx.dim(0), op.dx.dim(1), DType::float32);
  gradient_of_rows(op, rows.tensor, false);
  jitter_rows(op.router.noise, rows.tensor, rows.tensor);
  add_rows(rows.tensor, op.dx, op.accumulate_dx);
}

}  // namespace

void project_logits(const Route& op) {
  const RouterInput input(op.router.noise, op.x);
  const RouterMatrices& by = op.parameters;
  project(input.tensor(), by.weight, op.logits, {.bias = by.bias});
  if (op.noise_logits && by.noise_weight) project(input.tensor(), by.noise_weight, op.noise_logits, {});
  if (!by.lora_a) return;
  const Workspace rows = low_rank_rows(input.tensor(), by.lora_a, op.lora_scale);
  project(rows.tensor, by.lora_b, op.logits, {.accumulate = true});
}

void project_logits_backward(const RouteBackward& op) {
  if (op.dx) gradient_of_x(op);
  const StageTimer stage("dRouter");
  const RouterMatrices& into = op.d_parameters;
  const RouterGradientFlags& add = op.accumulate;
  if (into.bias) sum_tokens(op.d_logits, into.bias, add.bias);
  if (!into.weight && !into.noise_weight && !into.lora_a && !into.lora_b) return;
  const RouterInput input(op.router.noise, op.x);
  if (into.weight) multiply_tokens(op.d_logits, input.tensor(), into.weight, add.weight);
  if (into.noise_weight)
    multiply_tokens(op.d_noise_logits, input.tensor(), into.noise_weight, add.noise_weight);
  if (into.lora_a) multiply_tokens(low_rank_gradient(op).tensor, input.tensor(), into.lora_a, add.lora_a);
  if (into.lora_b) {
    const Workspace rows = low_rank_rows(input.tensor(), op.parameters.lora_a, op.lora_scale);
    multiply_tokens(op.d_logits, rows.tensor, into.lora_b, add.lora_b);
  }
}

}  // namespace moe::cpu
