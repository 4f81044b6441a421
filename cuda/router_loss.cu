// Losses on the router and their gradients: load balance (Switch, arXiv 2101.03961; GShard), z (ST-MoE, arXiv
// 2202.08906), importance and load (Shazeer 2017, arXiv 1701.06538), the entropy of its shares, and the bias
// update of loss-free balancing (arXiv 2408.15664). Bound by the bytes of the logits. The twin of
// cpu/router_loss.cpp.
#include "cuda/backend.h"
#include "cuda/device/ptx.cuh"
#include "cuda/device/report.cuh"
#include "cuda/device/scores.cuh"
#include "cuda/device/token_sums.cuh"
#include "cuda/expert_sums.h"
#include "cuda/router_load.h"
#include "cuda/router_tokens.h"

namespace moe::cuda {
namespace {

constexpr int kThreads = 256;

struct Slots {
  const int32_t* indices;  // [T, K]
  const int32_t* dropped;  // or null
  int32_t top_k;

  __device__ SlotFate fate(int64_t slot) const {
    return dropped == nullptr ? SlotFate::served : static_cast<SlotFate>(dropped[slot]);
  }
};

// Whole numbers, which any order adds to the same.
struct Counts {
  int32_t* slots;   // [runs, E']: taken ones of tokens that count
  int32_t* tokens;  // [runs + 1]: those that count; the last is of all
};

// A block for each run.
__global__ void __launch_bounds__(kThreads) count_tokens(TokenRuns runs, Counts counts) {
  int counted = 0;
  for (int64_t i = threadIdx.x; i < runs.length; i += kThreads)
    counted += runs.counts(blockIdx.x * runs.length + i) ? 1 : 0;
  counted = __reduce_add_sync(kAllLanes, counted);
  if (lane_id() != 0) return;
  atomicAdd(&counts.tokens[blockIdx.x], counted);
  atomicAdd(&counts.tokens[runs.count], counted);
}

__global__ void __launch_bounds__(kThreads)
    count_slots(TokenRuns runs, Slots slots, Counts counts, FailureReport bad_index) {
  const int64_t count = runs.count * runs.length * slots.top_k;
  for (int64_t slot = int64_t{blockIdx.x} * kThreads + threadIdx.x; slot < count;
       slot += int64_t{gridDim.x} * kThreads) {
    const int64_t token = slot / slots.top_k;
    const int32_t e = slots.indices[slot];
    if (e < 0 || e >= runs.experts) {
      bad_index(e, 0, static_cast<int32_t>(runs.experts));
    } else if (runs.counts(token) && slots.fate(slot) != SlotFate::untaken) {
      atomicAdd(&counts.slots[token / runs.length * runs.experts + e], 1);
    }
  }
}

// A token's shares: its scores divided by their sum where each is a function of one logit and positive, else
// its softmax.
struct Shares {
  Score score;
  bool softmax;
  float shift, sum;

  __device__ float share(float z) const {
    return (softmax ? expf(z - shift) : elementwise_score(score, z)) / sum;
  }
  // The gradient of Σ_e g_e · share_e to logit e is slope · (g_e - Σ g · share).
  __device__ float slope(float z) const {
    return softmax ? share(z) : elementwise_slope(score, z, elementwise_score(score, z)) / sum;
  }
};

// By a warp.
__device__ Shares shares_of(Score score, const float* logits, int64_t experts, bool softmax) {
  float shift = -INFINITY, sum = 0;
  for (int64_t e = lane_id(); softmax && e < experts; e += kWarp) shift = fmaxf(shift, logits[e]);
  shift = softmax ? warp_max(shift) : 0.0f;
  for (int64_t e = lane_id(); e < experts; e += kWarp)
    sum += softmax ? expf(logits[e] - shift) : elementwise_score(score, logits[e]);
  return {score, softmax, shift, warp_sum(sum)};
}

__device__ Shares shares_of(Score score, const float* logits, int64_t experts) {
  // Raw logits have no shares of their own: they may be negative.
  return shares_of(score, logits, experts, !is_elementwise(score) || score == Score::identity);
}

// What a token adds to the mean shares of its run.
struct ShareTerm {
  Score score;
  const float* logits;
  int64_t experts;

  __device__ Shares begin(int64_t token) const { return shares_of(score, logits + token * experts, experts); }
  __device__ float at(const Shares& shares, int64_t token, int64_t e) const {
    return shares.share(logits[token * experts + e]);
  }
};

struct Balance {
  const float* share_sums;  // [runs, E']
  float scale;              // of a run's Σ_e f_e · P_e
  float* slot_shares;       // [runs, E'], out: f
  float* losses;            // [runs], out
};

// A warp for each run.
__global__ void __launch_bounds__(kWarp) balance_runs(TokenRuns runs, Counts counts, Balance args) {
  for (int64_t run = blockIdx.x; run < runs.count; run += gridDim.x) {
    const int64_t first = run * runs.experts;
    float taken = 0, loss = 0;
    for (int64_t e = lane_id(); e < runs.experts; e += kWarp)
      taken += static_cast<float>(counts.slots[first + e]);
    taken = warp_sum(taken);
    const auto tokens = static_cast<float>(counts.tokens[run]);
    for (int64_t e = lane_id(); e < runs.experts; e += kWarp) {
      const float share = taken > 0 ? static_cast<float>(counts.slots[first + e]) / taken : 0.0f;
      args.slot_shares[first + e] = share;
      if (taken > 0) loss = fmaf(share, args.share_sums[first + e] / tokens, loss);
    }
    loss = warp_sum(loss);
    if (lane_id() == 0) args.losses[run] = args.scale * loss;
  }
}

struct TokenLosses {
  Score score;
  const float* logits;
  const float* slot_shares;  // [runs, E'], or null: no balance
  float balance_scale, z;
  float* d_logits;   // [T, E'], out
  float* squares;    // [T], out: of ln Σ exp z; 0 of padding
  float* entropies;  // [T], out
};

// A warp for each token: the gradients of the losses that are sums over tokens, and what the sums are of.
__global__ void __launch_bounds__(kThreads) token_losses(TokenRuns runs, Counts counts, TokenLosses args) {
  const int64_t E = runs.experts, tokens = runs.count * runs.length;
  const float z_scale = args.z / static_cast<float>(counts.tokens[runs.count]);
  for (int64_t t = warp_of_grid(); t < tokens; t += warps_of_grid()) {
    const float* logits = args.logits + t * E;
    float* d_logits = args.d_logits + t * E;
    const bool counted = runs.counts(t);
    float entropy = 0, flow = 0, log_sum = 0;
    if (counted) {
      const Shares softmax = shares_of(args.score, logits, E, true),
                   shares = shares_of(args.score, logits, E);
      const int64_t run = t / runs.length;
      const float* slots = args.slot_shares != nullptr ? args.slot_shares + run * E : nullptr;
      log_sum = softmax.shift + logf(softmax.sum);
      for (int64_t e = lane_id(); e < E; e += kWarp) {
        const float share = shares.share(logits[e]);
        if (share > 0) entropy -= share * logf(share);
        if (slots != nullptr) flow = fmaf(slots[e], share, flow);
      }
      entropy = warp_sum(entropy);
      flow = warp_sum(flow);
      const float scale = args.balance_scale / static_cast<float>(counts.tokens[run]);
      for (int64_t e = lane_id(); e < E; e += kWarp) {
        float gradient = args.z != 0 ? 2.0f * z_scale * log_sum * softmax.share(logits[e]) : 0.0f;
        if (slots != nullptr) gradient += scale * shares.slope(logits[e]) * (slots[e] - flow);
        d_logits[e] = gradient;
      }
    } else {
      for (int64_t e = lane_id(); e < E; e += kWarp) d_logits[e] = 0;
    }
    if (lane_id() != 0) continue;
    args.squares[t] = log_sum * log_sum;
    args.entropies[t] = entropy;
  }
}

// The sum of `count` floats in an order that their number alone decides, by a block, in its first thread.
__device__ float sum_in_block(const float* values, int64_t count) {
  auto* sums = reinterpret_cast<float*>(dynamic_shared());  // [warp]
  float sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += values[i];
  sum = warp_sum(sum);
  __syncthreads();
  if (lane_id() == 0) sums[threadIdx.x / kWarp] = sum;
  __syncthreads();
  float total = 0;
  for (int w = 0; w < kThreads / kWarp; ++w) total += sums[w];
  return total;
}

struct Totals {
  const float* run_losses;  // [runs], or null
  const float* squares;
  const float* entropies;
  float z;
  float* losses;  // [4]; those of importance and load become 0
  float* entropy;
};

// One block.
__global__ void __launch_bounds__(kThreads) add_up(TokenRuns runs, Counts counts, Totals args) {
  const int64_t tokens = runs.count * runs.length;
  const float balance = sum_in_block(args.run_losses, args.run_losses != nullptr ? runs.count : 0);
  const float squares = sum_in_block(args.squares, tokens), entropies = sum_in_block(args.entropies, tokens);
  if (threadIdx.x != 0) return;
  const auto counted = static_cast<float>(counts.tokens[runs.count]);
  args.losses[0] = balance;
  args.losses[1] = counted > 0 && args.z != 0 ? args.z / counted * squares : 0.0f;
  args.losses[2] = 0;
  args.losses[3] = 0;
  *args.entropy = counted > 0 ? entropies / counted : 0.0f;
}

// d_weights[slot] = slope of its expert's sum, where the slot took part in it.
__global__ void __launch_bounds__(kThreads)
    carry_importance(TokenRuns runs, Slots slots, const float* slopes, float* d_weights) {
  const int64_t count = runs.count * runs.length * slots.top_k;
  for (int64_t slot = int64_t{blockIdx.x} * kThreads + threadIdx.x; slot < count;
       slot += int64_t{gridDim.x} * kThreads) {
    const int32_t e = slots.indices[slot];
    const bool took_part =
        e >= 0 && e < runs.experts && runs.counts(slot / slots.top_k) && slots.fate(slot) == SlotFate::served;
    d_weights[slot] = took_part ? slopes[e] : 0.0f;
  }
}

const int32_t* ints_or_null(const Tensor& tensor) {
  return tensor ? tensor.i32() : nullptr;
}

// The stages of one call.
class Losses {
 public:
  Losses(const RouterLoss& op, const Context& context)
      : op_(op),
        context_(context),
        T_(op.logits.dim(0)),
        E_(op.logits.dim(1)),
        runs_(runs_of(op)),
        slots_{.indices = op.indices.i32(),
               .dropped = ints_or_null(op.dropped),
               .top_k = static_cast<int32_t>(op.indices.dim(1))},
        slot_counts_(context.workspace(runs_.count, E_, DType::int32)),
        token_counts_(context.workspace(1, runs_.count + 1, DType::int32)) {}

  void run() {
    count();
    add_sums_over_tokens();
    if (op_.importance != 0) add_importance();
    if (op_.d_noise_logits) cuda::run(Fill{.out = op_.d_noise_logits, .value = 0}, context_);
    if (op_.load != 0) add_load_loss(op_, context_);
  }

 private:
  static TokenRuns runs_of(const RouterLoss& op) {
    const int64_t T = op.logits.dim(0), length = op.sequence_length > 0 ? op.sequence_length : T;
    return {.count = T > 0 ? T / length : 0,
            .length = length,
            .experts = op.logits.dim(1),
            .mask = ints_or_null(op.mask)};
  }

  Counts counts() const { return {.slots = slot_counts_.tensor.i32(), .tokens = token_counts_.tensor.i32()}; }

  void count() const {
    cuda::run(Fill{.out = slot_counts_.tensor, .value = 0}, context_);
    cuda::run(Fill{.out = token_counts_.tensor, .value = 0}, context_);
    launch(context_, "count_tokens", count_tokens,
           {.blocks = {static_cast<unsigned>(runs_.count)}, .threads = {kThreads}}, runs_, counts());
    launch(context_, "count_slots", count_slots,
           {.blocks = {blocks_for(op_.indices.elements(), kThreads)}, .threads = {kThreads}}, runs_, slots_,
           counts(), context_.report(Argument::indices));
  }

  // Load balance, z and entropy.
  void add_sums_over_tokens() const {
    const Workspace of_runs = context_.workspace(1, runs_.count, DType::float32);
    const Workspace of_tokens = context_.workspace(2, T_, DType::float32);
    const Workspace slot_shares = context_.workspace(runs_.count, E_, DType::float32);
    const bool balanced = op_.load_balance != 0 && T_ > 0;
    const float scale =
        balanced ? op_.load_balance / static_cast<float>(runs_.count) * static_cast<float>(E_) : 0.0f;
    if (balanced) {
      const ShareTerm term = {.score = op_.router.score, .logits = op_.logits.f32(), .experts = E_};
      const Workspace sums = sum_over_tokens(term, runs_, 0, context_);
      const Balance balance = {.share_sums = sums.tensor.f32(),
                               .scale = scale,
                               .slot_shares = slot_shares.tensor.f32(),
                               .losses = of_runs.tensor.f32()};
      launch(context_, "balance_runs", balance_runs,
             {.blocks = {blocks_for(runs_.count, 1)}, .threads = {kWarp}}, runs_, counts(), balance);
    }
    const TokenLosses tokens = {.score = op_.router.score,
                                .logits = op_.logits.f32(),
                                .slot_shares = balanced ? slot_shares.tensor.f32() : nullptr,
                                .balance_scale = scale,
                                .z = op_.z,
                                .d_logits = op_.d_logits.f32(),
                                .squares = of_tokens.tensor.f32(),
                                .entropies = of_tokens.tensor.f32() + T_};
    launch(context_, "token_losses", token_losses,
           {.blocks = {blocks_for(T_, kThreads / kWarp)}, .threads = {kThreads}}, runs_, counts(), tokens);
    const Totals totals = {.run_losses = balanced ? of_runs.tensor.f32() : nullptr,
                           .squares = tokens.squares,
                           .entropies = tokens.entropies,
                           .z = op_.z,
                           .losses = op_.losses.f32(),
                           .entropy = op_.entropy.f32()};
    launch(context_, "add_up", add_up,
           {.blocks = {1}, .threads = {kThreads}, .shared_bytes = kThreads / kWarp * sizeof(float)}, runs_,
           counts(), totals);
  }

  // CV² of what the experts' weights add up to, differentiated through the weights.
  void add_importance() const {
    const Workspace sums = context_.workspace(1, E_, DType::float32);
    const Workspace slopes = context_.workspace(1, E_, DType::float32);
    const Workspace d_weights = context_.workspace(T_, slots_.top_k, DType::float32);
    sum_by_expert({.indices = op_.indices,
                   .values = op_.weights,
                   .dropped = op_.dropped,
                   .mask = op_.mask,
                   .out = sums.tensor},
                  context_);
    squared_variation({.sums = sums.tensor.f32(),
                       .experts = E_,
                       .coefficient = op_.importance,
                       .loss = op_.losses.f32() + 2,
                       .slopes = slopes.tensor.f32()},
                      context_);
    launch(context_, "carry_importance", carry_importance,
           {.blocks = {blocks_for(op_.indices.elements(), kThreads)}, .threads = {kThreads}}, runs_, slots_,
           slopes.tensor.f32(), d_weights.tensor.f32());
    gradient_of_logits({.router = op_.router,
                        .logits = op_.logits,
                        .indices = op_.indices,
                        .dropped = op_.dropped,
                        .mask = op_.mask,
                        .expert_scale = op_.expert_scale,
                        .d_weights = d_weights.tensor,
                        .extra = op_.d_logits,
                        .d_logits = op_.d_logits,
                        .d_expert_scale = {}},
                       context_);
  }

  const RouterLoss& op_;
  const Context& context_;
  const int64_t T_, E_;
  const TokenRuns runs_;
  const Slots slots_;
  const Workspace slot_counts_, token_counts_;
};

// One warp.
__global__ void __launch_bounds__(kWarp)
    update_bias(float* selection_bias, const int32_t* counts, int64_t experts, float rate) {
  int64_t total = 0;
  for (int64_t e = lane_id(); e < experts; e += kWarp) total += counts[e];
  for (int offset = kWarp / 2; offset > 0; offset /= 2) total += __shfl_xor_sync(kAllLanes, total, offset);
  for (int64_t e = lane_id(); e < experts; e += kWarp) {
    const int64_t above = counts[e] * experts - total;
    if (above != 0) selection_bias[e] += above < 0 ? rate : -rate;
  }
}

}  // namespace

void run(const RouterLoss& op, const Context& context) {
  Losses(op, context).run();
}

void run(const UpdateSelectionBias& op, const Context& context) {
  launch(context, "update_bias", update_bias, {.blocks = {1}, .threads = {kWarp}}, op.selection_bias.f32(),
         op.counts.i32(), op.counts.dim(0), op.rate);
}

}  // namespace moe::cuda
