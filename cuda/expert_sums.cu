// Bound by the bytes of the slots, which every expert reads; they stay in the second-level cache.
#include "cuda/expert_sums.h"

#include "cuda/device/convert.cuh"
#include "cuda/device/ptx.cuh"
#include "cuda/device/warp.cuh"
#include "cuda/launch.h"

namespace moe::cuda {
namespace {

constexpr int kWarps = 8;

struct Slots {
  const int32_t* indices;
  const float* values;     // or null
  const int32_t* dropped;  // or null
  const int32_t* mask;     // or null
  int64_t count;
  int32_t top_k;
};

__device__ float value_of(const Slots& slots, int64_t slot, int32_t expert) {
  if (slot >= slots.count || slots.indices[slot] != expert) return 0.0f;
  if (slots.dropped != nullptr && slots.dropped[slot] != static_cast<int32_t>(SlotFate::served)) return 0.0f;
  if (slots.mask != nullptr && slots.mask[slot / slots.top_k] == 0) return 0.0f;
  return slots.values[slot];
}

// A block for each expert: its threads take the slots in turn, and their sums are added in a fixed order.
template <class T>
__global__ void __launch_bounds__(kWarps* kWarp) sum_slots_of_expert(Slots slots, T* out, bool accumulate) {
  auto* sums = reinterpret_cast<float*>(dynamic_shared());  // [warp]
  const auto expert = static_cast<int32_t>(blockIdx.x);
  float sum = 0;
  for (int64_t slot = threadIdx.x; slot < slots.count && slots.values != nullptr; slot += kWarps * kWarp)
    sum += value_of(slots, slot, expert);
  sum = warp_sum(sum);
  if (lane_id() == 0) sums[threadIdx.x / kWarp] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  float total = accumulate ? to_float(out[expert]) : 0.0f;
  for (int w = 0; w < kWarps; ++w) total += sums[w];
  out[expert] = from_float<T>(total);
}

// A thread for each expert of a run.
__global__ void __launch_bounds__(kWarps* kWarp)
    add_rows(const float* partials, float* sums, int64_t rows_of_run, int64_t experts) {
  const int64_t run = blockIdx.x, e = int64_t{blockIdx.y} * blockDim.x + threadIdx.x;
  if (e >= experts) return;
  float sum = 0;
  for (int64_t row = run * rows_of_run; row < (run + 1) * rows_of_run; ++row)
    sum += partials[row * experts + e];
  sums[run * experts + e] = sum;
}

// One warp.
__global__ void __launch_bounds__(kWarp) vary(Variation args) {
  const auto n = static_cast<float>(args.experts);
  float mean = 0, variance = 0;
  for (int64_t e = lane_id(); e < args.experts; e += kWarp) mean += args.sums[e];
  mean = warp_sum(mean) / n;
  for (int64_t e = lane_id(); e < args.experts; e += kWarp) {
    const float off = args.sums[e] - mean;
    variance = fmaf(off, off, variance);
  }
  variance = warp_sum(variance) / n;
  const float value = mean == 0 ? 0.0f : variance / (mean * mean);
  for (int64_t e = lane_id(); e < args.experts; e += kWarp) {
    const float slope = 2.0f * ((args.sums[e] - mean) / mean - value) / (n * mean);
    args.slopes[e] = mean == 0 ? 0.0f : args.coefficient * slope;
  }
  if (lane_id() == 0) *args.loss = args.coefficient * value;
}

const int32_t* ints_or_null(const Tensor& tensor) {
  return tensor ? tensor.i32() : nullptr;
}

}  // namespace

void sum_by_expert(const ExpertSums& sums, const Context& context) {
  const Slots slots = {.indices = sums.indices.i32(),
                       .values = sums.values ? sums.values.f32() : nullptr,
                       .dropped = ints_or_null(sums.dropped),
                       .mask = ints_or_null(sums.mask),
                       .count = sums.indices.elements(),
                       .top_k = static_cast<int32_t>(sums.indices.dim(1))};
  const Grid grid = {.blocks = {static_cast<unsigned>(sums.out.elements())},
                     .threads = {kWarps * kWarp},
                     .shared_bytes = kWarps * sizeof(float)};
  with_float_type(sums.out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(context, "sum_slots_of_expert", sum_slots_of_expert<T>, grid, slots, sums.out.as<T>(),
           sums.accumulate);
  });
}

Workspace add_chunks(const Tensor& partials, int64_t runs, const Context& context) {
  const int64_t experts = partials.dim(1);
  Workspace sums = context.workspace(runs, experts, DType::float32);
  const Grid grid = {.blocks = {static_cast<unsigned>(runs), blocks_for(experts, kWarps * kWarp)},
                     .threads = {kWarps * kWarp}};
  launch(context, "add_rows", add_rows, grid, partials.f32(), sums.tensor.f32(),
         runs > 0 ? partials.dim(0) / runs : 0, experts);
  return sums;
}

void squared_variation(const Variation& variation, const Context& context) {
  launch(context, "vary", vary, {.blocks = {1}, .threads = {kWarp}}, variation);
}

}  // namespace moe::cuda
