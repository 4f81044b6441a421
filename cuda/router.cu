// The router: logits, then a warp for each token, then who is dropped. Bound by the bytes of x, or of the
// logits where they are given.
#include "cuda/backend.h"
#include "cuda/capacity.h"
#include "cuda/device/convert.cuh"
#include "cuda/device/report.cuh"
#include "cuda/device/route_outcome.cuh"
#include "cuda/expert_sums.h"
#include "cuda/launch.h"
#include "cuda/route_projected.h"
#include "cuda/router_logits.h"
#include "cuda/router_noise.h"
#include "cuda/router_tokens.h"

namespace moe::cuda {
namespace {

constexpr int kMostWarps = 8;
// Of a multiprocessor, at least: what leaves each thread the registers that it needs.
constexpr int kBlocks = 3;

Tokens tokens_of(const RouterConfig& router, const Tensor& logits) {
  return {.router = router, .count = logits.dim(0), .experts = logits.dim(1), .logits = logits.f32()};
}

// As many warps in a block as their scratch leaves room for.
Grid warp_each(const Tokens& tokens, const Context& context) {
  const int64_t words = TokenScratch::words(tokens.experts, tokens.router.top_k, tokens.router.group_count);
  const auto bytes = static_cast<size_t>(words) * sizeof(float);
  const auto fit = static_cast<int64_t>(static_cast<size_t>(context.limits().shared_bytes) / bytes);
  if (fit < 1)
    throw Error(kErrUnsupported, "router: expected experts and slots that fit into shared memory, got " +
                                     std::to_string(bytes) + " bytes");
  const int64_t warps = std::min<int64_t>(kMostWarps, fit);
  return {.blocks = {blocks_for(tokens.count, warps)},
          .threads = {static_cast<unsigned>(warps * kWarp)},
          .shared_bytes = static_cast<size_t>(warps) * bytes};
}

__device__ TokenScratch scratch_of_warp(const Tokens& tokens) {
  const int64_t K = tokens.router.top_k;
  const int64_t words = TokenScratch::words(tokens.experts, K, tokens.router.group_count);
  auto* memory = reinterpret_cast<float*>(dynamic_shared());
  return TokenScratch::at(memory + threadIdx.x / kWarp * words, tokens.experts, K);
}

__device__ TokenArgs args_of(const Tokens& tokens, int64_t token) {
  return {.router = tokens.router,
          .experts = tokens.experts,
          .logits = tokens.logits + token * tokens.experts,
          .selection_bias = tokens.selection_bias};
}

__global__ void __launch_bounds__(kMostWarps* kWarp, kBlocks) route_tokens(Tokens tokens, Outcome outcome) {
  const TokenScratch scratch = scratch_of_warp(tokens);
  for (int64_t t = warp_of_grid(); t < tokens.count; t += warps_of_grid())
    route_token(args_of(tokens, t), tokens, outcome, t, scratch);
}

struct TokenGradients {
  const int32_t* indices;
  const int32_t* dropped;  // or null
  const float* d_weights;  // or null
  const float* extra;      // or null
  float* d_logits;
  float* d_expert_scale;  // [T, K], or null: what each slot adds to its expert's
  FailureReport bad_index;
};

__global__ void __launch_bounds__(kMostWarps* kWarp, kBlocks)
    route_tokens_backward(Tokens tokens, TokenGradients gradients) {
  const RouterConfig& router = tokens.router;
  const int K = router.top_k;
  const TokenScratch scratch = scratch_of_warp(tokens);
  for (int64_t t = warp_of_grid(); t < tokens.count; t += warps_of_grid()) {
    const TokenArgs args = args_of(tokens, t);
    float* d_logits = gradients.d_logits + t * tokens.experts;
    for (int64_t e = lane_id(); e < tokens.experts; e += kWarp)
      d_logits[e] = gradients.extra != nullptr ? gradients.extra[t * tokens.experts + e] : 0.0f;
    __syncwarp();
    // Whatever the logits of padding are, nothing flows back to them.
    const bool padding = tokens.mask != nullptr && tokens.mask[t] == 0;
    for (int k = lane_id(); padding && gradients.d_expert_scale != nullptr && k < K; k += kWarp)
      gradients.d_expert_scale[t * K + k] = 0;
    if (gradients.d_weights == nullptr || padding) continue;
    for (int k = lane_id(); k < K; k += kWarp) {
      const int32_t e = gradients.indices[t * K + k];
      const bool known = e >= 0 && e < tokens.experts;
      if (!known) gradients.bad_index(e, 0, static_cast<int32_t>(tokens.experts));
      scratch.chosen[k] = known ? e : 0;
    }
    __syncwarp();
    chosen_scores(args, scratch);
    const int taken = taken_slots(router, scratch.scores);
    const float divisor = divisor_of(router, scratch.scores, taken).value;
    for (int k = lane_id(); k < K; k += kWarp) {
      const int64_t slot = t * K + k;
      // The weight of a slot that is not served is a constant.
      const bool served =
          gradients.dropped == nullptr || gradients.dropped[slot] == static_cast<int32_t>(SlotFate::served);
      const float d_weight = served && k < taken ? gradients.d_weights[slot] : 0.0f;
      scratch.gradients[k] = d_weight * scale_of(tokens, scratch.chosen[k]);
      if (gradients.d_expert_scale != nullptr)
        gradients.d_expert_scale[slot] = d_weight * (router.scale * (scratch.scores[k] / divisor));
    }
    __syncwarp();
    weights_backward(router, scratch);
    scores_backward(args, scratch, d_logits);
    __syncwarp();
  }
}

struct SlotCounts {
  const int32_t* indices;
  const int32_t* dropped;
  int32_t* counts;
  int64_t slots;
};

__global__ void __launch_bounds__(256) count_served(SlotCounts args) {
  for (int64_t slot = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; slot < args.slots;
       slot += int64_t{gridDim.x} * blockDim.x) {
    if (args.dropped[slot] == static_cast<int32_t>(SlotFate::served))
      atomicAdd(&args.counts[args.indices[slot]], 1);
  }
}

void count_served_slots(const Route& op, const Context& context) {
  const SlotCounts args = {.indices = op.indices.i32(),
                           .dropped = op.dropped.i32(),
                           .counts = op.counts.i32(),
                           .slots = op.indices.elements()};
  launch(context, "count_served", count_served, {.blocks = {blocks_for(args.slots, 256)}, .threads = {256}},
         args);
}

void copy(const Tensor& from, const Tensor& to, const Context& context) {
  if (from) run(Cast{.source = from, .out = to}, context);
}

void make_logits(const Route& op, const Context& context) {
  copy(op.given_logits, op.logits, context);
  copy(op.given_noise_logits, op.noise_logits, context);
  if (op.x) project_logits(op, context);
  average_sequences(op.router, op.mask, op.logits, Direction::forward, context);
  average_sequences(op.router, op.mask, op.noise_logits, Direction::forward, context);
  add_noise(op.router, op.noise_logits, op.logits, context);
}

}  // namespace

void gradient_of_logits(const LogitGradients& gradients, const Context& context) {
  Tokens tokens = tokens_of(gradients.router, gradients.logits);
  if (gradients.mask) tokens.mask = gradients.mask.i32();
  if (gradients.expert_scale) {
    tokens.expert_scale = gradients.expert_scale.data;
    tokens.expert_scale_dtype = gradients.expert_scale.dtype;
  }
  const TokenGradients args = {
      .indices = gradients.indices.i32(),
      .dropped = gradients.dropped ? gradients.dropped.i32() : nullptr,
      .d_weights = gradients.d_weights ? gradients.d_weights.f32() : nullptr,
      .extra = gradients.extra ? gradients.extra.f32() : nullptr,
      .d_logits = gradients.d_logits.f32(),
      .d_expert_scale = gradients.d_expert_scale ? gradients.d_expert_scale.f32() : nullptr,
      .bad_index = context.report(Argument::indices)};
  launch(context, "route_tokens_backward", route_tokens_backward, warp_each(tokens, context), tokens, args);
}

void run(const Route& op, const Context& context) {
  const bool bounded = op.router.capacity.rows_per_expert > 0;
  const bool experts_choose = op.router.choice == Choice::all && bounded;
  StageTimer stage(context, "logits");
  run(Fill{.out = op.counts, .value = 0}, context);

  Tokens tokens = tokens_of(op.router, op.logits);
  if (op.selection_bias) tokens.selection_bias = op.selection_bias.f32();
  if (op.mask) tokens.mask = op.mask.i32();
  if (op.expert_scale) {
    tokens.expert_scale = op.expert_scale.data;
    tokens.expert_scale_dtype = op.expert_scale.dtype;
  }
  const Outcome outcome = {.given = op.given_indices ? op.given_indices.i32() : nullptr,
                           .indices = op.indices.i32(),
                           .weights = op.weights.f32(),
                           .dropped = op.dropped ? op.dropped.i32() : nullptr,
                           .counts = experts_choose ? nullptr : op.counts.i32(),
                           .bad_index = context.report(Argument::indices)};
  if (!route_as_projected(op, tokens, outcome, context)) {
    make_logits(op, context);
    stage.next("choice");
    launch(context, "route_tokens", route_tokens, warp_each(tokens, context), tokens, outcome);
  }
  if (bounded) {
    stage.next("capacity");
    apply_capacity(op, context);
  }
  if (experts_choose) count_served_slots(op, context);
}

namespace {

// d_logits of what was scored, from the gradients of the weights.
void gradient_of_scores(const RouteBackward& op, const Context& context) {
  const StageTimer stage(context, "dLogits");
  const int64_t T = op.indices.dim(0), K = op.indices.dim(1);
  const bool scaled = op.d_expert_scale.present;
  const Workspace contributions = context.workspace(scaled ? T : 0, K, DType::float32);
  gradient_of_logits({.router = op.router,
                      .logits = op.logits,
                      .indices = op.indices,
                      .dropped = op.dropped,
                      .mask = op.mask,
                      .expert_scale = op.expert_scale,
                      .d_weights = op.d_weights,
                      .extra = op.extra_d_logits,
                      .d_logits = op.d_logits,
                      .d_expert_scale = scaled && op.d_weights ? contributions.tensor : Tensor{}},
                     context);
  if (scaled) {
    sum_by_expert({.indices = op.indices,
                   .values = op.d_weights ? contributions.tensor : Tensor{},
                   .dropped = {},
                   .mask = {},
                   .out = op.d_expert_scale,
                   .accumulate = op.accumulate_d_expert_scale},
                  context);
  }
  if (op.d_noise_logits)
    noise_backward(op.router, op.noise_logits, op.d_logits, op.extra_d_noise_logits, op.d_noise_logits,
                   context);
  average_sequences(op.router, op.mask, op.d_logits, Direction::backward, context);
  average_sequences(op.router, op.mask, op.d_noise_logits, Direction::backward, context);
}

}  // namespace

void run(const RouteBackward& op, const Context& context) {
  gradient_of_scores(op, context);
  project_logits_backward(op, context);
}

}  // namespace moe::cuda
