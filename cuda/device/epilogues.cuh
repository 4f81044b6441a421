// What becomes of finished tiles of sums. They lie in shared memory; the warps of a team take their elements
// row by row, so that neighbours write neighbouring addresses.
#pragma once

#include "cuda/device/activations.cuh"
#include "cuda/device/elements.cuh"
#include "cuda/device/row_weights.cuh"
#include "cuda/device/warp.cuh"
#include "cuda/grouped_gemm.h"

namespace moe::cuda {

// The warps that finish a tile together: a block's, or some of it. Shared memory is theirs before and after.
struct Team {
  int warp, warps;  // the calling thread's own, of so many
};

__device__ inline Team whole_block() {
  return {static_cast<int>(threadIdx.x) / kWarp, static_cast<int>(blockDim.x) / kWarp};
}

// c[row][column] with a pitch, of rows × columns of C that exist. Side by side, column j of the second matrix
// is `half` further. Columns of a tile start at a multiple of kDotColumns where the epilogue adds along them.
struct Tile {
  Team team;
  float* c;
  int pitch, half;
  int32_t group;
  int64_t row, column;  // of C; routed rows where M is ragged
  int rows, columns;
};

__device__ inline float bias_at(const Block& bias, int32_t group, int64_t column) {
  return bias.data == nullptr
             ? 0.0f
             : load_as(bias.dtype, bias.data, group * bias.group_stride + column * bias.column_stride);
}

// Calls visit(row, column) for elements of the tile; a warp has one row at a time, and every lane is called,
// `inside` or not.
template <class Visit>
__device__ void each_row(const Tile& tile, int columns, Visit visit) {
  for (int row = tile.team.warp; row < tile.rows; row += tile.team.warps)
    for (int column = lane_id(); column < (columns + kWarp - 1) / kWarp * kWarp; column += kWarp)
      visit(row, column, column < columns);
}

__device__ inline void finish(const Store& store, const Tile& tile) {
  const Block& out = store.out;
  each_row(tile, tile.columns, [&](int row, int column, bool inside) {
    if (!inside) return;
    const int64_t at = tile.group * out.group_stride + (tile.row + row) * out.row_stride +
                       (tile.column + column) * out.column_stride;
    float value = store.scale * tile.c[row * tile.pitch + column];
    value += bias_at(store.bias, tile.group, tile.column + column);
    if (store.accumulate) value += load_as(out.dtype, out.data, at);
    store_as(out.dtype, out.data, at, value);
  });
}

// Where the gate and the up column of activated column j lie, in a tile and in pre-activation rows.
struct Columns {
  int gate, up;
  int64_t gate_pre, up_pre;
};

template <class Epilogue>
__device__ Columns columns_of(const Epilogue& epilogue, const Tile& tile, int64_t first, int j) {
  if (!is_gated(epilogue.activation)) return {j, j, first + j, first + j};
  if (epilogue.interleaved) return {2 * j, 2 * j + 1, 2 * (first + j), 2 * (first + j) + 1};
  return {j, tile.half + j, first + j, epilogue.intermediate + first + j};
}

template <class Epilogue>
__device__ int64_t pre_width(const Epilogue& epilogue) {
  return is_gated(epilogue.activation) ? 2 * epilogue.intermediate : epilogue.intermediate;
}

__device__ inline void finish(const Activate& args, const Tile& tile) {
  const bool gated = is_gated(args.activation), paired = gated && args.interleaved;
  const int columns = paired ? tile.columns / 2 : tile.columns;
  const int64_t first = paired ? tile.column / 2 : tile.column;
  each_row(tile, columns, [&](int row, int j, bool inside) {
    if (!inside) return;
    const Columns at = columns_of(args, tile, first, j);
    const int64_t r = tile.row + row;
    const float weight = weight_of(args.row_weights, r);
    const float* c = tile.c + row * tile.pitch;
    const float up = fmaf(weight, c[at.up], bias_at(args.up_bias, tile.group, first + j));
    const float gate = gated ? fmaf(weight, c[at.gate], bias_at(args.gate_bias, tile.group, first + j)) : up;
    if (args.pre_activation != nullptr) {
      const int64_t pre = r * pre_width(args);
      store_as(args.dtype, args.pre_activation, pre + at.up_pre, up);
      if (gated) store_as(args.dtype, args.pre_activation, pre + at.gate_pre, gate);
    }
    if (args.out == nullptr) return;
    const float value = activation_of(args.activation, gate).value;
    store_as(args.dtype, args.out, r * args.intermediate + first + j,
             gated ? value * up_of(args.activation, up).value : value);
  });
}

// One element; returns ⟨c, activated⟩ of it.
__device__ inline float finish_element(const ActivateBackward& args, const Tile& tile, int row, float weight,
                                       int j) {
  const bool gated = is_gated(args.activation);
  const int64_t r = tile.row + row, pre = r * pre_width(args);
  const Columns at = columns_of(args, tile, tile.column, j);
  const float c = tile.c[row * tile.pitch + j], gradient = weight * c;
  const float up_pre = load_as(args.dtype, args.pre_activation, pre + at.up_pre);
  const float gate_pre = gated ? load_as(args.dtype, args.pre_activation, pre + at.gate_pre) : up_pre;
  const Slope gate = activation_of(args.activation, gate_pre);
  const Slope up = gated ? up_of(args.activation, up_pre) : Slope{1.0f, 0.0f};
  const float activated = gate.value * up.value;
  if (gated) {
    store_as(args.dtype, args.d_pre_activation, pre + at.gate_pre, gradient * up.value * gate.derivative);
    store_as(args.dtype, args.d_pre_activation, pre + at.up_pre, gradient * gate.value * up.derivative);
  } else {
    store_as(args.dtype, args.d_pre_activation, pre + at.up_pre, gradient * gate.derivative);
  }
  if (args.weighted != nullptr)
    store_as(args.dtype, args.weighted, r * args.intermediate + tile.column + j, weight * activated);
  return c * activated;
}

// Sums over columns are kept by kDotColumns of them, whatever the tile: a warp adds its lanes in a fixed
// order.
__device__ inline void finish(const ActivateBackward& args, const Tile& tile) {
  const int64_t dots_each = (args.intermediate + kDotColumns - 1) / kDotColumns;
  for (int row = tile.team.warp; row < tile.rows; row += tile.team.warps) {
    const int64_t r = tile.row + row;
    const float weight = weight_of(args.row_weights, r);
    for (int first = 0; first < tile.columns; first += kDotColumns) {
      const int end = first + kDotColumns < tile.columns ? first + kDotColumns : tile.columns;
      float dot = 0;
      for (int j = first + lane_id(); j < end; j += kWarp) dot += finish_element(args, tile, row, weight, j);
      if (args.dots == nullptr) continue;
      dot = warp_sum(dot);
      if (lane_id() == 0) args.dots[r * dots_each + (tile.column + first) / kDotColumns] = dot;
    }
  }
}

}  // namespace moe::cuda
