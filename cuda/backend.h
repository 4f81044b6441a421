// What the CUDA backend does with each op: one overload per description, each in the file of its kernel
// family. All of them only enqueue.
#pragma once

#include "cuda/context.h"
#include "ops/op.h"

namespace moe::cuda {

void run(const Fill& op, const Context& context);
void run(const Cast& op, const Context& context);
void run(const Route& op, const Context& context);
void run(const RouteBackward& op, const Context& context);
void run(const RouterLoss& op, const Context& context);
void run(const UpdateSelectionBias& op, const Context& context);
void run(const Dispatch& op, const Context& context);
void run(const Gather& op, const Context& context);
void run(const Combine& op, const Context& context);
void run(const CombineBackward& op, const Context& context);
void run(const GroupedMatmul& op, const Context& context);
void run(const GroupedMatmulDgrad& op, const Context& context);
void run(const GroupedMatmulWgrad& op, const Context& context);
void run(const ExpertsForward& op, const Context& context);
void run(const ExpertsBackward& op, const Context& context);

inline void run(const Op& op, const Context& context) {
  std::visit([&](const auto& description) { run(description, context); }, op);
}

}  // namespace moe::cuda
