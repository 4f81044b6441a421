#include "cuda/router_logits.h"

#include <optional>

#include "cuda/grouped_gemm.h"
#include "cuda/routed_rows.h"
#include "cuda/router_noise.h"

namespace moe::cuda {
namespace {

// out = scale · left · rightᵀ + bias, or added to out
struct Projection {
  Tensor bias;
  float scale = 1;
  bool accumulate = false;
};
void project(const Tensor& left, const Tensor& right, const Tensor& out, const Projection& how,
             const Context& context) {
  GroupedGemm gemm = times_transposed(left, right);
  gemm.exact = true;
  const Block bias = how.bias ? Block{.data = how.bias.data, .dtype = how.bias.dtype} : Block{};
  grouped_gemm(gemm,
               Store{.out = block_of(out), .bias = bias, .scale = how.scale, .accumulate = how.accumulate},
               context);
}

// out (+)= scale · left · right
void multiply(const Tensor& left, const Tensor& right, const Store& into, const Context& context) {
  grouped_gemm(times(left, right), into, context);
}

// out (+)= leftᵀ · right, summed over the tokens in their order
void multiply_tokens(const Tensor& left, const Tensor& right, const Tensor& out, bool accumulate,
                     const Context& context) {
  grouped_gemm(transposed_times(left, right), Store{.out = block_of(out), .accumulate = accumulate}, context);
}

// What the router sees of x: x itself, or x with jitter.
class RouterInput {
 public:
  RouterInput(const RouterNoise& noise, const Tensor& x, const Context& context) : tensor_(x) {
    if (noise.kind != NoiseKind::jitter || !x) return;
    jittered_ = context.workspace(x.dim(0), x.dim(1), DType::float32);
    jitter_rows(noise, x, jittered_->tensor, false, context);
    tensor_ = jittered_->tensor;
  }

  const Tensor& tensor() const { return tensor_; }

 private:
  Tensor tensor_;
  std::optional<Workspace> jittered_;
};

// scale · (x · lora_aᵀ), [T, r]
Workspace low_rank_rows(const Tensor& x, const Tensor& lora_a, float scale, const Context& context) {
  Workspace rows = context.workspace(x.dim(0), lora_a.dim(0), DType::float32);
  project(x, lora_a, rows.tensor, {.scale = scale}, context);
  return rows;
}

// scale · (d_logits · lora_b), [T, r]
Workspace low_rank_gradient(const RouteBackward& op, const Context& context) {
  Workspace rows = context.workspace(op.d_logits.dim(0), op.parameters.lora_b.dim(1), DType::float32);
  multiply(op.d_logits, op.parameters.lora_b, {.out = block_of(rows.tensor), .scale = op.lora_scale},
           context);
  return rows;
}

// Gradients of the rows that the products read.
void gradient_of_rows(const RouteBackward& op, const Tensor& out, bool accumulate, const Context& context) {
  const Store more = {.out = block_of(out), .accumulate = true};
  multiply(op.d_logits, op.parameters.weight, {.out = block_of(out), .accumulate = accumulate}, context);
  if (op.parameters.noise_weight) multiply(op.d_noise_logits, op.parameters.noise_weight, more, context);
  if (op.parameters.lora_a)
    multiply(low_rank_gradient(op, context).tensor, op.parameters.lora_a, more, context);
}

void gradient_of_x(const RouteBackward& op, const Context& context) {
  const StageTimer stage(context, "dx");
  if (op.router.noise.kind != NoiseKind::jitter)
    return gradient_of_rows(op, op.dx, op.accumulate_dx, context);
  const Workspace rows = context.workspace(op.dx.dim(0), op.dx.dim(1), DType::float32);
  gradient_of_rows(op, rows.tensor, false, context);
  jitter_rows(op.router.noise, rows.tensor, op.dx, op.accumulate_dx, context);
}

// out (+)= Σ_t rows[t]
void sum_tokens(const Tensor& rows, const Tensor& out, bool accumulate, const Context& context) {
  sum_groups({.count = rows.dim(0)},
             {.rows = operand_of(rows),
              .columns = rows.dim(1),
              .out = {.data = out.data, .dtype = out.dtype},
              .accumulate = accumulate},
             context);
}

}  // namespace

void project_logits(const Route& op, const Context& context) {
  const RouterInput input(op.router.noise, op.x, context);
  const RouterMatrices& by = op.parameters;
  project(input.tensor(), by.weight, op.logits, {.bias = by.bias}, context);
  if (op.noise_logits && by.noise_weight)
    project(input.tensor(), by.noise_weight, op.noise_logits, {}, context);
  if (!by.lora_a) return;
  const Workspace rows = low_rank_rows(input.tensor(), by.lora_a, op.lora_scale, context);
  project(rows.tensor, by.lora_b, op.logits, {.accumulate = true}, context);
}

void project_logits_backward(const RouteBackward& op, const Context& context) {
  if (op.dx) gradient_of_x(op, context);
  const StageTimer stage(context, "dRouter");
  const RouterMatrices& into = op.d_parameters;
  const RouterGradientFlags& add = op.accumulate;
  if (into.bias) sum_tokens(op.d_logits, into.bias, add.bias, context);
  if (!into.weight && !into.noise_weight && !into.lora_a && !into.lora_b) return;
  const RouterInput input(op.router.noise, op.x, context);
  const Tensor& x = input.tensor();
  if (into.weight) multiply_tokens(op.d_logits, x, into.weight, add.weight, context);
  if (into.noise_weight) multiply_tokens(op.d_noise_logits, x, into.noise_weight, add.noise_weight, context);
  if (into.lora_a)
    multiply_tokens(low_rank_gradient(op, context).tensor, x, into.lora_a, add.lora_a, context);
  if (!into.lora_b) return;
  const Workspace rows = low_rank_rows(x, op.parameters.lora_a, op.lora_scale, context);
  multiply_tokens(op.d_logits, rows.tensor, into.lora_b, add.lora_b, context);
}

}  // namespace moe::cuda
