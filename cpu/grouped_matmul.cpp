// The grouped products as single ops, for frameworks that wire their own layer. Bound by FLOPs, or for few
// rows by the bytes of the weights.
#include "ops/grouped_matmul.h"

#include <cstring>

#include "cpu/backend.h"
#include "cpu/expert_gemm.h"
#include "cpu/loops.h"

namespace moe::cpu {
namespace {

// A routed row matrix as an operand.
Operand rows_operand(const Tensor& rows) {
  return {.data = rows.data, .dtype = rows.dtype, .row_stride = rows.dim(1)};
}

// Rows past the last group belong to none.
void clear_unused(const Tensor& offsets, const Tensor& rows) {
  if (!rows) return;
  const int64_t used = offsets.i32()[offsets.dim(0) - 1], width = rows.dim(1);
  const int64_t unused = (rows.dim(0) - used) * width;
  std::memset(mutable_row_of(rows, used, width), 0, static_cast<size_t>(unused) * bytes_of(rows.dtype));
}

}  // namespace

void run(const GroupedMatmul& op) {
  const int64_t E = op.weight.dim(0), N = op.weight.dim(1), C = op.weight.dim(2);
  check_offsets(op.offsets, op.rows.dim(0));
  clear_unused(op.offsets, op.out);
  clear_unused(op.offsets, op.pre_activation);
  const bool gated = is_gated(op.activation);
  const int64_t I = gated ? N / 2 : N;
  const GateUp parts = split_gate_up(gated ? ExpertTensors{.gate_up = op.weight, .gate_up_bias = op.bias}
                                           : ExpertTensors{.up = op.weight, .up_bias = op.bias},
                                     I);
  GroupedGemm gemm = {.groups = E, .offsets = op.offsets.i32(), .n = I, .k = C, .a = rows_operand(op.rows)};
  set_halves(gemm, parts, Halves::lanes);
  grouped_gemm(gemm, Activate{.activation = op.activation,
                              .intermediate = I,
                              .gate_bias = parts.gate_bias,
                              .up_bias = parts.up_bias,
                              .pre_activation = op.pre_activation,
                              .out = op.out});
}

void run(const GroupedMatmulDgrad& op) {
  const int64_t E = op.weight.dim(0), N = op.weight.dim(1), C = op.weight.dim(2);
  check_offsets(op.offsets, op.d_out.dim(0));
  clear_unused(op.offsets, op.d_rows);
  const GroupedGemm gemm = {.groups = E,
                            .offsets = op.offsets.i32(),
                            .n = C,
                            .k = N,
                            .a = rows_operand(op.d_out),
                            .b = {operand_of({op.weight, 0, N * C, C})},
                            .b_k_contiguous = false};
  if (op.activation.function == Activation::identity) {
    grouped_gemm(gemm, StoreRows{.out = op.d_rows});
  } else {
    grouped_gemm(gemm, ActivateBackward{.activation = op.activation,
                                        .intermediate = C,
                                        .pre_activation = op.pre_activation,
                                        .d_pre_activation = op.d_rows,
                                        .row_weights = nullptr,
                                        .weighted = {},
                                        .dots = nullptr});
  }
}

void run(const GroupedMatmulWgrad& op) {
  const int64_t E = op.offsets.dim(0) - 1, N = op.d_out.dim(1), C = op.rows.dim(1);
  check_offsets(op.offsets, op.d_out.dim(0));
  const GroupedGemm gemm = {.groups = E,
                            .offsets = op.offsets.i32(),
                            .ragged = Ragged::k,
                            .m = N,
                            .n = C,
                            .a = rows_operand(op.d_out),
                            .a_k_contiguous = false,
                            .b = {rows_operand(op.rows)},
                            .b_k_contiguous = false};
  grouped_gemm(gemm, StoreBlock{.out = {op.d_weight, 0, N * C, C}, .accumulate = op.accumulate_d_weight});
  if (!op.d_bias) return;
  sum_groups({.groups = E,
              .offsets = op.offsets.i32(),
              .rows = rows_operand(op.d_out),
              .columns = N,
              .weights = nullptr,
              .out = {op.d_bias, 0, N, 1},
              .accumulate = op.accumulate_d_bias});
}

}  // namespace moe::cpu
