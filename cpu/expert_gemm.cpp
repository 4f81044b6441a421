#include "cpu/expert_gemm.h"

#include <cstdint>
#include <vector>

#include "cpu/loops.h"

namespace moe::cpu {
namespace {

// Of weight gradients, which are read when all are there. More would not stay in the last-level cache.
constexpr size_t kLargestCached = size_t{8} << 20;

// Element `index` of a tensor, or null where the tensor is absent.
void* at(const Tensor& tensor, int64_t index) {
  return tensor ? tensor.as<char>() + index * static_cast<int64_t>(bytes_of(tensor.dtype)) : nullptr;
}

void* at(const ExpertMatrix& matrix, int64_t expert, int64_t row, int64_t column) {
  return at(matrix.tensor, matrix.offset + expert * matrix.expert_stride + row * matrix.row_stride +
                               column * matrix.column_stride);
}

// None where a row of a tile would not be whole, aligned cache lines.
StreamedBlocks streamed_blocks(const ExpertMatrix& matrix) {
  const auto bytes = static_cast<int64_t>(bytes_of(matrix.tensor.dtype));
  const auto is_whole = [&](int64_t elements) { return elements * bytes % kCacheLine == 0; };
  void* const out = at(matrix, 0, 0, 0);
  if (reinterpret_cast<uintptr_t>(out) % kCacheLine != 0 || !is_whole(tile_columns()) ||
      !is_whole(matrix.expert_stride) || !is_whole(matrix.row_stride))
    return {};
  return {.out = out,
          .group_stride = matrix.expert_stride,
          .row_stride = matrix.row_stride,
          .dtype = matrix.tensor.dtype};
}

// Where gate and up lie in a pre-activation row.
struct PreActivationColumns {
  PreActivationColumns(const ActivationSpec& activation, bool interleaved, int64_t intermediate)
      : width(is_gated(activation) ? 2 * intermediate : intermediate),
        stride(interleaved ? 2 : 1),
        up(!is_gated(activation) ? 0
           : interleaved         ? 1
                                 : intermediate) {}

  // Where the gate of a row's column lies.
  int64_t gate(int64_t row, int64_t column) const { return row * width + column * stride; }

  int64_t width;   // of a row
  int64_t stride;  // from one gate to the next
  int64_t up;      // from a gate to its up; ungated rows have ups alone
};

// Activated columns that a tile of C makes: interleaved, its lanes are pairs of one gate and one up each.
struct Neurons {
  int64_t col;
  int lanes;
};
Neurons neurons_of(const Tile& tile, bool interleaved) {
  const int per_neuron = interleaved ? 2 : 1;
  return {.col = tile.col / per_neuron, .lanes = tile.lanes / per_neuron};
}

// Some columns of rows that are `width` wide, if there is such a matrix.
void prefetch_rows(const Tensor& matrix, int64_t first, int64_t width, int rows, int64_t columns) {
  asm volatile("");  // GCC takes what only prefetches for something without effect, and leaves its calls out.
  const auto bytes = static_cast<int64_t>(bytes_of(matrix.dtype));
  for (int row = 0; matrix && row < rows; ++row) {
    const char* const begin = static_cast<const char*>(at(matrix, first + row * width));
    for (int64_t i = 0; i < columns * bytes; i += kCacheLine) __builtin_prefetch(begin + i);
  }
}

// Gates and ups of a tile; alternating, they are one run of columns.
void prefetch_pre_activation(const Tensor& matrix, const PreActivationColumns& columns, int64_t first,
                             int rows, int64_t lanes) {
  prefetch_rows(matrix, first, columns.width, rows, lanes * columns.stride);
  const bool two_runs = columns.up > columns.stride;
  if (two_runs) prefetch_rows(matrix, first + columns.up, columns.width, rows, lanes);
}

}  // namespace

void StoreRows::operator()(const Tile& tile) const {
  kernels().store({.c = tile.c,
                   .rows = tile.rows,
                   .lanes = tile.lanes,
                   .scale = scale,
                   .out = at(out, tile.row * out.dim(1) + tile.col),
                   .out_stride = out.dim(1),
                   .dtype = out.dtype,
                   .accumulate = accumulate,
                   .bias = at(bias, tile.group, tile.col, 0),
                   .bias_dtype = bias.tensor.dtype});
}

void StoreRows::prefetch(const Tile& tile) const {
  prefetch_rows(out, tile.row * out.dim(1) + tile.col, out.dim(1), tile.rows, tile.lanes);
}

Epilogue store_block(const ExpertMatrix& out, bool accumulate) {
  const auto store = [out, accumulate](const Tile& tile) {
    kernels().store({.c = tile.c,
                     .rows = tile.rows,
                     .lanes = tile.lanes,
                     .out = at(out, tile.group, tile.row, tile.col),
                     .out_stride = out.row_stride,
                     .dtype = out.tensor.dtype,
                     .accumulate = accumulate,
                     .bias = nullptr,
                     .bias_dtype = DType::float32});
  };
  if (accumulate || out.tensor.bytes() <= kLargestCached) return store;
  return {store, streamed_blocks(out)};
}

void Activate::operator()(const Tile& tile) const {
  const PreActivationColumns columns(activation, interleaved, intermediate);
  const auto [col, lanes] = neurons_of(tile, interleaved);
  const int64_t gate = columns.gate(tile.row, col);
  kernels().activate({.activation = activation,
                      .interleaved = interleaved,
                      .c = tile.c,
                      .rows = tile.rows,
                      .lanes = lanes,
                      .row_weights = row_weights != nullptr ? row_weights + tile.row : nullptr,
                      .gate_bias = at(gate_bias, tile.group, col, 0),
                      .up_bias = at(up_bias, tile.group, col, 0),
                      .bias_dtype = up_bias.tensor.dtype,
                      .gate_pre = at(pre_activation, gate),
                      .up_pre = at(pre_activation, gate + columns.up),
                      .pre_stride = columns.width,
                      .out = at(out, tile.row * intermediate + col),
                      .out_stride = intermediate,
                      .dtype = pre_activation ? pre_activation.dtype : out.dtype});
}

void Activate::prefetch(const Tile& tile) const {
  const PreActivationColumns columns(activation, interleaved, intermediate);
  const auto [col, lanes] = neurons_of(tile, interleaved);
  prefetch_pre_activation(pre_activation, columns, columns.gate(tile.row, col), tile.rows, lanes);
  prefetch_rows(out, tile.row * intermediate + col, intermediate, tile.rows, lanes);
}

void ActivateBackward::operator()(const Tile& tile) const {
  const PreActivationColumns columns(activation, interleaved, intermediate);
  const int64_t gate = columns.gate(tile.row, tile.col);
  const int64_t tile_width = tile_columns();
  const int64_t column_tiles = (intermediate + tile_width - 1) / tile_width;
  kernels().activate_backward(
      {.activation = activation,
       .interleaved = interleaved,
       .c = tile.c,
       .rows = tile.rows,
       .lanes = tile.lanes,
       .row_weights = row_weights != nullptr ? row_weights + tile.row : nullptr,
       .gate_pre = at(pre_activation, gate),
       .up_pre = at(pre_activation, gate + columns.up),
       .pre_stride = columns.width,
       .gate_d_pre = at(d_pre_activation, gate),
       .up_d_pre = at(d_pre_activation, gate + columns.up),
       .weighted = at(weighted, tile.row * intermediate + tile.col),
       .weighted_stride = intermediate,
       .dot = dots != nullptr ? dots + tile.row * column_tiles + tile.col / tile_width : nullptr,
       .dot_stride = column_tiles,
       .dtype = d_pre_activation.dtype});
}

void ActivateBackward::prefetch(const Tile& tile) const {
  const PreActivationColumns columns(activation, interleaved, intermediate);
  const int64_t gate = columns.gate(tile.row, tile.col);
  prefetch_pre_activation(pre_activation, columns, gate, tile.rows, tile.lanes);
  prefetch_pre_activation(d_pre_activation, columns, gate, tile.rows, tile.lanes);
  prefetch_rows(weighted, tile.row * intermediate + tile.col, intermediate, tile.rows, tile.lanes);
}

void sum_groups(const SumGroups& sums) {
  ThreadPool::instance().parallel_for(sums.groups.groups, [&](int64_t group) {
    const int64_t first = sums.groups.begin(group), count = sums.groups.begin(group + 1) - first;
    std::vector<const void*> rows(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) rows[static_cast<size_t>(i)] = row_of(sums.rows, group, first + i);
    kernels().sum_rows({.rows = rows.data(),
                        .weights = sums.weights != nullptr ? sums.weights + first : nullptr,
                        .count = count,
                        .width = sums.columns,
                        .dtype = sums.rows.dtype,
                        .out = at(sums.out, group, 0, 0),
                        .out_dtype = sums.out.tensor.dtype,
                        .accumulate = sums.accumulate});
  });
}

}  // namespace moe::cpu
