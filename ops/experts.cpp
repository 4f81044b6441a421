// Packed and separate gate/up layouts, seen as the same strided blocks.
#include "ops/experts.h"

namespace moe {
namespace {

ExpertMatrix block(const Tensor& tensor, int64_t first_row, int64_t rows_per_expert, int64_t columns) {
  if (!tensor) return {};
  return {tensor, first_row * columns, rows_per_expert * columns, columns};
}

}  // namespace

GateUp split_gate_up(const ExpertTensors& experts, int64_t intermediate) {
  GateUp parts;
  const int64_t I = intermediate;
  if (const Tensor& packed = experts.gate_up) {
    parts.gate = block(packed, 0, 2 * I, packed.dim(2));
    parts.up = block(packed, I, 2 * I, packed.dim(2));
  } else {
    if (experts.gate) parts.gate = block(experts.gate, 0, I, experts.gate.dim(2));
    if (experts.up) parts.up = block(experts.up, 0, I, experts.up.dim(2));
  }
  if (experts.gate_up_bias) {
    parts.gate_bias = block(experts.gate_up_bias, 0, 2 * I, 1);
    parts.up_bias = block(experts.gate_up_bias, I, 2 * I, 1);
  } else {
    parts.gate_bias = block(experts.gate_bias, 0, I, 1);
    parts.up_bias = block(experts.up_bias, 0, I, 1);
  }
  return parts;
}

}  // namespace moe
