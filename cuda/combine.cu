// Rows moved along the dispatch: gather, combine and their gradients. Bound by bytes: a warp moves a row in
// packs of sixteen bytes where its width allows.
#include "cuda/combine.h"

#include <algorithm>
#include <initializer_list>

#include "cuda/backend.h"
#include "cuda/device/convert.cuh"
#include "cuda/device/report.cuh"
#include "cuda/device/warp.cuh"
#include "cuda/launch.h"

namespace moe::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
// Of a multiprocessor, at least: what leaves each thread the registers that it needs.
constexpr int kBlocks = 4;

Grid warp_each(int64_t rows) {
  return {.blocks = {blocks_for(rows, kWarps)}, .threads = {kThreads}};
}

// What a lane moves at a time: so many elements, in one access where they are aligned for it. The number
// alone says how sums are formed, so that an address has no part in the result.
template <class T, int size, bool aligned>
struct alignas(aligned ? sizeof(T) * size : sizeof(T)) Lanes {
  using Element = T;
  static constexpr int kSize = size;
  T of[size];
};

// Calls with the lanes for rows of a width: packs where it is a multiple of them. Tensors of the caller's
// need not lie at a multiple of sixteen bytes.
template <class T, class Body>
void with_lanes(int64_t width, bool aligned, Body body) {
  if (width % Pack<T>::kSize != 0) {
    body(Lanes<T, 1, true>{});
  } else if (aligned) {
    body(Lanes<T, Pack<T>::kSize, true>{});
  } else {
    body(Lanes<T, Pack<T>::kSize, false>{});
  }
}

bool all_aligned(std::initializer_list<const void*> tensors) {
  return std::all_of(tensors.begin(), tensors.end(),
                     [](const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; });
}

template <class L>
__device__ L load(const typename L::Element* row, int64_t at) {
  return *reinterpret_cast<const L*>(row + at);
}

template <class L>
__device__ void store(typename L::Element* row, int64_t at, const L& lanes) {
  *reinterpret_cast<L*>(row + at) = lanes;
}

struct GatherRows {
  const void* x;
  const int32_t* row_slot;
  void* rows;
  int64_t tokens, count, width;
  int32_t top_k;
  FailureReport bad_slot;
};

template <class L>
__global__ void __launch_bounds__(kThreads, kBlocks) gather_rows(GatherRows args) {
  using T = typename L::Element;
  for (int64_t r = warp_of_grid(); r < args.count; r += warps_of_grid()) {
    const int32_t slot = args.row_slot[r];
    const bool used = slot >= 0 && slot < args.tokens * args.top_k;
    if (!used && slot != kUnusedRow && lane_id() == 0)
      args.bad_slot(slot, kUnusedRow, static_cast<int32_t>(args.tokens * args.top_k));
    const T* x = static_cast<const T*>(args.x) + (used ? slot / args.top_k : 0) * args.width;
    T* row = static_cast<T*>(args.rows) + r * args.width;
    for (int64_t at = lane_id() * L::kSize; at < args.width; at += kWarp * L::kSize)
      store<L>(row, at, used ? load<L>(x, at) : L{});
  }
}

struct SumSlots {
  const void* rows;  // or null
  const int32_t* slot_row;
  const float* weights;        // or null
  const void* tokens;          // or null
  const float* token_weights;  // or null
  void* out;
  int64_t token_count, row_count, width;
  int32_t top_k;
  bool accumulate;
  FailureReport bad_row;
};

// What a slot adds: a row and its weight, or null.
template <class T>
__device__ const T* source_of(const SumSlots& args, int64_t slot, float& weight) {
  const int32_t row = args.slot_row[slot];
  const float* weights = nullptr;
  const T* source = nullptr;
  if (row >= 0 && row < args.row_count && args.rows != nullptr) {
    source = static_cast<const T*>(args.rows) + row * args.width;
    weights = args.weights;
  } else if (row == kIdentitySlot && args.tokens != nullptr) {
    source = static_cast<const T*>(args.tokens) + slot / args.top_k * args.width;
    weights = args.token_weights;
  }
  weight = weights != nullptr ? weights[slot] : 1.0f;
  return source;
}

template <class L>
__global__ void __launch_bounds__(kThreads, kBlocks) sum_slots_kernel(SumSlots args) {
  using T = typename L::Element;
  constexpr int kSize = L::kSize;
  for (int64_t t = warp_of_grid(); t < args.token_count; t += warps_of_grid()) {
    for (int k = lane_id(); k < args.top_k; k += kWarp) {
      const int32_t row = args.slot_row[t * args.top_k + k];
      const bool known = row == kDroppedSlot || row == kIdentitySlot || (row >= 0 && row < args.row_count);
      if (!known) args.bad_row(row, kIdentitySlot, static_cast<int32_t>(args.row_count));
    }
    T* out = static_cast<T*>(args.out) + t * args.width;
    for (int64_t at = lane_id() * kSize; at < args.width; at += kWarp * kSize) {
      float sum[kSize] = {};
      for (int32_t k = 0; k < args.top_k; ++k) {
        float weight;
        const T* source = source_of<T>(args, t * args.top_k + k, weight);
        if (source == nullptr) continue;
        const L lanes = load<L>(source, at);
        for (int i = 0; i < kSize; ++i) sum[i] = fmaf(weight, to_float(lanes.of[i]), sum[i]);
      }
      L result;
      const L before = args.accumulate ? load<L>(out, at) : L{};
      for (int i = 0; i < kSize; ++i)
        result.of[i] = from_float<T>(args.accumulate ? to_float(before.of[i]) + sum[i] : sum[i]);
      store<L>(out, at, result);
    }
  }
}

template <class L>
__device__ float dot_lanes(const L& a, const L& b) {
  float sum = 0;
  for (int i = 0; i < L::kSize; ++i) sum = fmaf(to_float(a.of[i]), to_float(b.of[i]), sum);
  return sum;
}

struct RowlessArgs {
  const void* dy;
  const void* tokens;  // or null
  const int32_t* slot_row;
  float* d_weights;
  int64_t slots, width;
  int32_t top_k;
};

template <class L>
__global__ void __launch_bounds__(kThreads, kBlocks) rowless_weights(RowlessArgs args) {
  using T = typename L::Element;
  for (int64_t slot = warp_of_grid(); slot < args.slots; slot += warps_of_grid()) {
    const int32_t row = args.slot_row[slot];
    if (row >= 0) continue;
    float sum = 0;
    if (row == kIdentitySlot && args.tokens != nullptr) {
      const int64_t first = slot / args.top_k * args.width;
      const T *dy = static_cast<const T*>(args.dy) + first,
              *token = static_cast<const T*>(args.tokens) + first;
#pragma unroll 2
      for (int64_t at = lane_id() * L::kSize; at < args.width; at += kWarp * L::kSize)
        sum += dot_lanes(load<L>(dy, at), load<L>(token, at));
    }
    sum = warp_sum(sum);
    if (lane_id() == 0) args.d_weights[slot] = sum;
  }
}

struct CombineRows {
  const void* dy;
  const int32_t* row_slot;
  const void* rows;      // or null
  const float* weights;  // or null
  void* d_rows;
  float* d_weights;  // or null
  int64_t slots, count, width;
  int32_t top_k;
  FailureReport bad_slot;
};

template <class L>
__global__ void __launch_bounds__(kThreads, kBlocks) combine_backward(CombineRows args) {
  using T = typename L::Element;
  constexpr int kSize = L::kSize;
  for (int64_t r = warp_of_grid(); r < args.count; r += warps_of_grid()) {
    const int32_t slot = args.row_slot[r];
    const bool used = slot >= 0 && slot < args.slots;
    if (!used && slot != kUnusedRow && lane_id() == 0)
      args.bad_slot(slot, kUnusedRow, static_cast<int32_t>(args.slots));
    const T* dy = static_cast<const T*>(args.dy) + (used ? slot / args.top_k : 0) * args.width;
    const float weight = !used ? 0.0f : args.weights != nullptr ? args.weights[slot] : 1.0f;
    T* d_row = static_cast<T*>(args.d_rows) + r * args.width;
    const bool weighed = used && args.d_weights != nullptr;
    const T* row = weighed ? static_cast<const T*>(args.rows) + r * args.width : nullptr;
    float sum = 0;
#pragma unroll 2
    for (int64_t at = lane_id() * kSize; at < args.width; at += kWarp * kSize) {
      L gradient{};
      if (used) gradient = load<L>(dy, at);
      if (weighed) sum += dot_lanes(gradient, load<L>(row, at));
      for (int i = 0; i < kSize; ++i) gradient.of[i] = from_float<T>(weight * to_float(gradient.of[i]));
      store<L>(d_row, at, gradient);
    }
    if (!weighed) continue;
    sum = warp_sum(sum);
    if (lane_id() == 0) args.d_weights[slot] = sum;
  }
}

// Rows that a kernel moves, a warp for each.
struct Moved {
  DType dtype;
  int64_t width, count;
  bool aligned;  // every tensor that they lie in
};

// Launches a kernel's instance for rows; `kernel` makes it from lanes.
template <class Kernel, class Args>
void launch_rows(const char* name, const Moved& moved, Kernel kernel, const Args& args,
                 const Context& context) {
  with_float_type(moved.dtype, [&](auto tag) {
    with_lanes<typename decltype(tag)::type>(moved.width, moved.aligned, [&](auto lanes) {
      launch(context, name, kernel(lanes), warp_each(moved.count), args);
    });
  });
}

const float* floats_or_null(const Tensor& tensor) {
  return tensor ? tensor.f32() : nullptr;
}

}  // namespace

void run(const Gather& op, const Context& context) {
  const GatherRows args = {.x = op.x.data,
                           .row_slot = op.row_slot.i32(),
                           .rows = op.rows.data,
                           .tokens = op.x.dim(0),
                           .count = op.rows.dim(0),
                           .width = op.x.dim(1),
                           .top_k = op.top_k,
                           .bad_slot = context.report(Argument::row_slot)};
  launch_rows(
      "gather_rows",
      {.dtype = op.x.dtype,
       .width = args.width,
       .count = args.count,
       .aligned = all_aligned({args.x, args.rows})},
      [](auto lanes) { return gather_rows<decltype(lanes)>; }, args, context);
}

void sum_slots(const SlotSum& sum, const Context& context) {
  const SumSlots args = {.rows = sum.rows ? sum.rows.data : nullptr,
                         .slot_row = sum.slot_row.i32(),
                         .weights = floats_or_null(sum.weights),
                         .tokens = sum.tokens ? sum.tokens.data : nullptr,
                         .token_weights = floats_or_null(sum.token_weights),
                         .out = sum.out.data,
                         .token_count = sum.out.dim(0),
                         .row_count = sum.rows ? sum.rows.dim(0) : INT32_MAX,
                         .width = sum.out.dim(1),
                         .top_k = static_cast<int32_t>(sum.slot_row.dim(1)),
                         .accumulate = sum.accumulate,
                         .bad_row = context.report(Argument::slot_row)};
  launch_rows(
      "sum_slots_kernel",
      {.dtype = sum.out.dtype,
       .width = args.width,
       .count = args.token_count,
       .aligned = all_aligned({args.rows, args.tokens, args.out})},
      [](auto lanes) { return sum_slots_kernel<decltype(lanes)>; }, args, context);
}

void gradient_of_rowless_weights(const RowlessWeights& rowless, const Context& context) {
  const RowlessArgs args = {.dy = rowless.dy.data,
                            .tokens = rowless.tokens ? rowless.tokens.data : nullptr,
                            .slot_row = rowless.slot_row.i32(),
                            .d_weights = rowless.d_weights.f32(),
                            .slots = rowless.slot_row.elements(),
                            .width = rowless.dy.dim(1),
                            .top_k = static_cast<int32_t>(rowless.slot_row.dim(1))};
  launch_rows(
      "rowless_weights",
      {.dtype = rowless.dy.dtype,
       .width = args.width,
       .count = args.slots,
       .aligned = all_aligned({args.dy, args.tokens})},
      [](auto lanes) { return rowless_weights<decltype(lanes)>; }, args, context);
}

void run(const Combine& op, const Context& context) {
  sum_slots({.rows = op.rows,
             .slot_row = op.slot_row,
             .weights = op.weights,
             .tokens = op.x,
             .token_weights = op.weights,
             .out = op.y,
             .accumulate = op.accumulate},
            context);
}

void run(const CombineBackward& op, const Context& context) {
  if (op.d_weights)
    gradient_of_rowless_weights(
        {.dy = op.dy, .tokens = op.x, .slot_row = op.slot_row, .d_weights = op.d_weights}, context);
  const CombineRows args = {.dy = op.dy.data,
                            .row_slot = op.row_slot.i32(),
                            .rows = op.rows ? op.rows.data : nullptr,
                            .weights = floats_or_null(op.weights),
                            .d_rows = op.d_rows.data,
                            .d_weights = op.d_weights ? op.d_weights.f32() : nullptr,
                            .slots = op.slot_row.elements(),
                            .count = op.d_rows.dim(0),
                            .width = op.dy.dim(1),
                            .top_k = static_cast<int32_t>(op.slot_row.dim(1)),
                            .bad_slot = context.report(Argument::row_slot)};
  launch_rows(
      "combine_backward",
      {.dtype = op.dy.dtype,
       .width = args.width,
       .count = args.count,
       .aligned = all_aligned({args.dy, args.rows, args.d_rows})},
      [](auto lanes) { return combine_backward<decltype(lanes)>; }, args, context);
  // Identity slots alone: no row of d_rows takes part.
  if (op.dx)
    sum_slots({.slot_row = op.slot_row, .tokens = op.dy, .token_weights = op.weights, .out = op.dx}, context);
}

}  // namespace moe::cuda
