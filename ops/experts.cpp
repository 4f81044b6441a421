// Packed, separate, interleaved and transposed layouts, seen as the same strided blocks.
#include "ops/experts.h"

#include <algorithm>

namespace moe {
namespace {

ExpertLinear linear_of(const Experts& experts, ExpertLinear place) {
  place.transposed = experts.transposed;
  place.lora_scale = experts.lora_scale;
  place.at = place.blocks_of(experts.parameters[place.projection]);
  return place;
}

}  // namespace

bool Experts::has_lora() const {
  return std::any_of(parameters.of_projection.begin(), parameters.of_projection.end(),
                     [](const LinearParameters<Tensor>& of) { return of.lora_a.present; });
}

ExpertDims Experts::dims() const {
  const Tensor& down = parameters[Projection::down].weight;
  const int64_t first = down.dim(1), second = down.dim(2);
  return {.experts = down.dim(0),
          .hidden = transposed ? second : first,
          .intermediate = transposed ? first : second};
}

ExpertMatrix ExpertMatrix::transposed() const {
  ExpertMatrix other = *this;
  std::swap(other.row_stride, other.column_stride);
  return other;
}

ExpertMatrix ExpertMatrix::rows_from(int64_t row) const {
  ExpertMatrix other = *this;
  other.offset += row * row_stride;
  return other;
}

LinearParameters<ExpertMatrix> ExpertLinear::blocks_of(const LinearParameters<Tensor>& tensors) const {
  const auto block = [](const Tensor& tensor, int64_t rows, int64_t columns) {
    return ExpertMatrix{.tensor = tensor, .expert_stride = rows * columns, .row_stride = columns};
  };
  const int64_t rank = tensors.lora_a ? tensors.lora_a.dim(1) : 0;
  return {.weight = transposed ? block(tensors.weight, inputs, outputs).transposed()
                               : block(tensors.weight, outputs, inputs),
          .bias = block(tensors.bias, outputs, 1),
          .lora_a = block(tensors.lora_a, rank, inputs),
          .lora_b = block(tensors.lora_b, outputs, rank)};
}

std::vector<ExpertLinear> up_projections(const Experts& experts, const ActivationSpec& activation) {
  const int64_t H = experts.dims().hidden, I = experts.dims().intermediate;
  const auto linear = [&](Projection projection, int64_t first, int64_t outputs) {
    return linear_of(experts, {.projection = projection, .first = first, .outputs = outputs, .inputs = H});
  };
  if (!is_gated(activation)) return {linear(Projection::up, 0, I)};
  if (experts.parameters[Projection::gate_up].weight) return {linear(Projection::gate_up, 0, 2 * I)};
  return {linear(Projection::gate, 0, I), linear(Projection::up, I, I)};
}

ExpertLinear down_projection(const Experts& experts) {
  const ExpertDims dims = experts.dims();
  return linear_of(experts,
                   {.projection = Projection::down, .outputs = dims.hidden, .inputs = dims.intermediate});
}

}  // namespace moe
