// Bound by the bytes of the rows.
#include "cuda/routed_rows.h"

#include <algorithm>

#include "cuda/device/elements.cuh"
#include "cuda/device/ptx.cuh"
#include "cuda/device/report.cuh"
#include "cuda/device/row_weights.cuh"
#include "cuda/device/stored_rows.cuh"
#include "cuda/device/warp.cuh"
#include "cuda/launch.h"
#include "ops/dispatch.h"

namespace moe::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

Grid warp_each(int64_t rows) {
  return {.blocks = {blocks_for(rows, kWarps)}, .threads = {kThreads}};
}

// Where a group begins, and the last ends: within memory whatever the offsets say.
__device__ int64_t offset_of(const RoutedRows& rows, int32_t group) {
  if (rows.offsets == nullptr) return group == 0 ? 0 : rows.count;
  const int64_t offset = rows.offsets[group];
  return offset < 0 ? 0 : offset < rows.count ? offset : rows.count;
}

__device__ int64_t used_rows(const RoutedRows& rows) {
  return offset_of(rows, rows.groups);
}

struct Checks {
  RoutedRows rows;
  const int32_t* row_slot;  // or null
  const int32_t* slot_row;  // or null
  int64_t slots;
  FailureReport bad_offset, bad_slot, bad_row;
};

__global__ void __launch_bounds__(kThreads) check(Checks args) {
  const int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x, stride = int64_t{gridDim.x} * kThreads;
  const auto limit = static_cast<int32_t>(args.rows.count + 1);
  for (int64_t g = first; g <= args.rows.groups; g += stride) {
    const int32_t offset = args.rows.offsets[g], before = g > 0 ? args.rows.offsets[g - 1] : 0;
    if (g == 0 ? offset != 0 : offset < before || offset >= limit) args.bad_offset(offset, 0, limit);
  }
  if (args.row_slot == nullptr) return;
  // Bad offsets are one failure, not several.
  const int32_t last = args.rows.offsets[args.rows.groups];
  if (last < 0 || last >= limit) return;
  for (int64_t r = first; r < last; r += stride) {
    const int32_t slot = args.row_slot[r];
    if (slot < 0 || slot >= args.slots) args.bad_slot(slot, 0, static_cast<int32_t>(args.slots));
  }
  for (int64_t slot = first; slot < args.slots; slot += stride) {
    const int32_t row = args.slot_row[slot];
    if (row < kIdentitySlot || row >= last) args.bad_row(row, kIdentitySlot, last);
  }
}

void launch_check(const Checks& checks, const Context& context) {
  const int64_t most = std::max<int64_t>({checks.rows.groups + 1, checks.rows.count, checks.slots});
  launch(context, "check", check, {.blocks = {blocks_for(most, kThreads)}, .threads = {kThreads}}, checks);
}

template <class T>
__global__ void __launch_bounds__(kThreads) clear(RoutedRows rows, T* matrix, int64_t width) {
  const int64_t end = rows.count * width;
  for (int64_t at = used_rows(rows) * width + int64_t{blockIdx.x} * kThreads + threadIdx.x; at < end;
       at += int64_t{gridDim.x} * kThreads)
    matrix[at] = T{};
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    weigh(RoutedRows rows, T* matrix, int64_t width, RowWeights weights) {
  const int64_t used = used_rows(rows);
  for (int64_t r = warp_of_grid(); r < used; r += warps_of_grid()) {
    const float weight = weight_of(weights, r);
    T* row = matrix + r * width;
    for (int64_t at = lane_id(); at < width; at += kWarp) row[at] = from_float<T>(weight * to_float(row[at]));
  }
}

// A block for each group and run of columns: each of its warps adds every kWarps-th row, then the first adds
// the warps' sums in their order.
template <class T>
__global__ void __launch_bounds__(kThreads) sum_columns(RoutedRows rows, SumGroups args) {
  auto* sums = reinterpret_cast<float*>(dynamic_shared());  // [warp][column]
  const auto group = static_cast<int32_t>(blockIdx.y);
  const int64_t column = int64_t{blockIdx.x} * kWarp + lane_id();
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t end = offset_of(rows, group + 1);
  float sum = 0;
  for (int64_t r = offset_of(rows, group) + warp; r < end && column < args.columns; r += kWarps) {
    const int64_t position = position_of(args.rows, r);
    if (position < 0) continue;
    const T* row = static_cast<const T*>(args.rows.data) + position * args.rows.row_stride;
    sum = fmaf(weight_of(args.weights, r), to_float(row[column]), sum);
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (warp > 0 || column >= args.columns) return;
  float total = 0;
  for (int w = 0; w < kWarps; ++w) total += sums[w * kWarp + lane_id()];
  const int64_t at = group * args.out.group_stride + column * args.out.column_stride;
  if (args.accumulate) total += load_as(args.out.dtype, args.out.data, at);
  store_as(args.out.dtype, args.out.data, at, total);
}

// The group of a row that is used.
__device__ int32_t group_of(const RoutedRows& rows, int64_t row) {
  int32_t low = 0, high = rows.groups - 1;
  while (low < high) {
    const int32_t middle = (low + high) / 2;
    if (row < rows.offsets[middle + 1]) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

struct Dots {
  RoutedRows rows;
  const int32_t* row_slot;
  const float* partials;  // or null
  int64_t partials_each;
  const void* tokens;
  DType dtype;
  Block other;
  float* d_weights;
  int64_t slots, width;
  int32_t top_k;
};

__global__ void __launch_bounds__(kThreads) dot(Dots args) {
  const int64_t used = used_rows(args.rows);
  for (int64_t r = warp_of_grid(); r < used; r += warps_of_grid()) {
    const int32_t slot = args.row_slot[r];
    if (slot < 0 || slot >= args.slots) continue;
    float sum = 0;
    for (int64_t i = lane_id(); i < args.partials_each; i += kWarp)
      sum += args.partials[r * args.partials_each + i];
    if (args.other.data != nullptr) {
      const int64_t group = args.other.group_stride != 0 ? group_of(args.rows, r) : 0;
      const int64_t other = group * args.other.group_stride + r * args.other.row_stride;
      const int64_t token = slot / args.top_k * args.width;
      for (int64_t at = lane_id(); at < args.width; at += kWarp)
        sum = fmaf(load_as(args.dtype, args.tokens, token + at),
                   load_as(args.other.dtype, args.other.data, other + at), sum);
    }
    sum = warp_sum(sum);
    if (lane_id() == 0) args.d_weights[slot] = sum;
  }
}

}  // namespace

RoutedRows routed_rows(const Tensor& offsets, int64_t count) {
  return {.groups = static_cast<int32_t>(offsets.dim(0) - 1), .offsets = offsets.i32(), .count = count};
}

void check_offsets(const RoutedRows& rows, const Context& context) {
  launch_check({.rows = rows,
                .row_slot = nullptr,
                .slot_row = nullptr,
                .slots = 0,
                .bad_offset = context.report(Argument::offsets),
                .bad_slot = context.report(Argument::row_slot),
                .bad_row = context.report(Argument::slot_row)},
               context);
}

void check_dispatch(const RoutedRows& rows, const Tensor& row_slot, const Tensor& slot_row,
                    const Context& context) {
  launch_check({.rows = rows,
                .row_slot = row_slot.i32(),
                .slot_row = slot_row.i32(),
                .slots = slot_row.elements(),
                .bad_offset = context.report(Argument::offsets),
                .bad_slot = context.report(Argument::row_slot),
                .bad_row = context.report(Argument::slot_row)},
               context);
}

void clear_unused(const RoutedRows& rows, const Tensor& matrix, const Context& context) {
  if (!matrix) return;
  with_float_type(matrix.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(context, "clear", clear<T>,
           {.blocks = {blocks_for(matrix.elements(), kThreads)}, .threads = {kThreads}}, rows, matrix.as<T>(),
           matrix.dim(1));
  });
}

void weigh_rows(const RoutedRows& rows, const Tensor& matrix, const RowWeights& weights,
                const Context& context) {
  with_float_type(matrix.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(context, "weigh", weigh<T>, warp_each(rows.count), rows, matrix.as<T>(), matrix.dim(1), weights);
  });
}

void sum_groups(const RoutedRows& rows, const SumGroups& sums, const Context& context) {
  const Grid grid = {.blocks = {blocks_for(sums.columns, kWarp), static_cast<unsigned>(rows.groups)},
                     .threads = {kThreads},
                     .shared_bytes = kThreads * sizeof(float)};
  with_float_type(sums.rows.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(context, "sum_columns", sum_columns<T>, grid, rows, sums);
  });
}

void dot_rows(const RoutedRows& rows, const DotRows& dots, const Context& context) {
  const Dots args = {.rows = rows,
                     .row_slot = dots.row_slot.i32(),
                     .partials = dots.partials ? dots.partials.f32() : nullptr,
                     .partials_each = dots.partials ? dots.partials.dim(1) : 0,
                     .tokens = dots.tokens.data,
                     .dtype = dots.tokens.dtype,
                     .other = dots.other,
                     .d_weights = dots.d_weights.f32(),
                     .slots = dots.d_weights.elements(),
                     .width = dots.tokens.dim(1),
                     .top_k = static_cast<int32_t>(dots.d_weights.dim(1))};
  launch(context, "dot", dot, warp_each(rows.count), args);
}

}  // namespace moe::cuda
