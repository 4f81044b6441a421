#include "cpu/expert_gemm.h"

#include <vector>

#include "cpu/loops.h"

namespace moe::cpu {
namespace {

// Element `index` of a tensor, or null where the tensor is absent.
void* at(const Tensor& tensor, int64_t index) {
  return tensor ? tensor.as<char>() + index * static_cast<int64_t>(bytes_of(tensor.dtype)) : nullptr;
}

void* at(const ExpertMatrix& matrix, int64_t expert, int64_t row, int64_t column) {
  return at(matrix.tensor, matrix.offset + expert * matrix.expert_stride + row * matrix.row_stride + column);
}

}  // namespace

Operand operand_of(const ExpertMatrix& weight) {
  return {.data = at(weight.tensor, weight.offset),
          .dtype = weight.tensor.dtype,
          .row_stride = weight.row_stride,
          .group_stride = weight.expert_stride};
}

void set_halves(GroupedGemm& gemm, const GateUp& parts, Halves halves) {
  if (parts.gate) {
    gemm.halves = halves;
    gemm.b[0] = operand_of(parts.gate);
    gemm.b[1] = operand_of(parts.up);
  } else {
    gemm.b[0] = operand_of(parts.up);
  }
}

void StoreRows::operator()(const Tile& tile) const {
  kernels().store({.c = tile.c,
                   .rows = tile.rows,
                   .lanes = tile.lanes,
                   .out = at(out, tile.row * out.dim(1) + tile.col),
                   .out_stride = out.dim(1),
                   .dtype = out.dtype,
                   .accumulate = accumulate,
                   .bias = at(bias, tile.group, tile.col, 0),
                   .bias_dtype = bias.tensor.dtype});
}

void StoreBlock::operator()(const Tile& tile) const {
  kernels().store({.c = tile.c,
                   .rows = tile.rows,
                   .lanes = tile.lanes,
                   .out = at(out, tile.group, tile.row, tile.col),
                   .out_stride = out.row_stride,
                   .dtype = out.tensor.dtype,
                   .accumulate = accumulate,
                   .bias = nullptr,
                   .bias_dtype = DType::float32});
}

void Activate::operator()(const Tile& tile) const {
  const bool gated = is_gated(activation);
  const int64_t pre_stride = gated ? 2 * intermediate : intermediate;
  const int64_t first = tile.row * pre_stride + tile.col;
  kernels().activate({.activation = activation,
                      .c = tile.c,
                      .rows = tile.rows,
                      .lanes = tile.lanes,
                      .row_weights = row_weights != nullptr ? row_weights + tile.row : nullptr,
                      .gate_bias = gated ? at(gate_bias, tile.group, tile.col, 0) : nullptr,
                      .up_bias = at(up_bias, tile.group, tile.col, 0),
                      .bias_dtype = up_bias.tensor.dtype,
                      .gate_pre = gated ? at(pre_activation, first) : nullptr,
                      .up_pre = at(pre_activation, gated ? first + intermediate : first),
                      .pre_stride = pre_stride,
                      .out = at(out, tile.row * intermediate + tile.col),
                      .out_stride = intermediate,
                      .dtype = pre_activation ? pre_activation.dtype : out.dtype});
}

void ActivateBackward::operator()(const Tile& tile) const {
  const bool gated = is_gated(activation);
  const int64_t pre_stride = gated ? 2 * intermediate : intermediate;
  const int64_t gate = tile.row * pre_stride + tile.col;
  const int64_t up = gated ? gate + intermediate : gate;
  const int64_t tile_width = tile_columns(Halves::none);
  const int64_t column_tiles = (intermediate + tile_width - 1) / tile_width;
  kernels().activate_backward(
      {.activation = activation,
       .c = tile.c,
       .rows = tile.rows,
       .lanes = tile.lanes,
       .row_weights = row_weights != nullptr ? row_weights + tile.row : nullptr,
       .gate_pre = at(pre_activation, gate),
       .up_pre = at(pre_activation, up),
       .pre_stride = pre_stride,
       .gate_d_pre = at(d_pre_activation, gate),
       .up_d_pre = at(d_pre_activation, up),
       .weighted = at(weighted, tile.row * intermediate + tile.col),
       .weighted_stride = intermediate,
       .dot = dots != nullptr ? dots + tile.row * column_tiles + tile.col / tile_width : nullptr,
       .dot_stride = column_tiles,
       .dtype = d_pre_activation.dtype});
}

void sum_groups(const SumGroups& sums) {
  ThreadPool::instance().parallel_for(sums.groups, [&](int64_t group) {
    const int64_t first = sums.offsets[group], count = sums.offsets[group + 1] - first;
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
