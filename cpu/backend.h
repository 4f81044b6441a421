// What the CPU backend does with each op: one overload per description, each in the file of its kernel
// family.
#pragma once

#include "ops/op.h"

namespace moe::cpu {

void run(const Fill& op);
void run(const Cast& op);
void run(const Route& op);
void run(const RouteBackward& op);
void run(const RouterLoss& op);
void run(const UpdateSelectionBias& op);
void run(const Dispatch& op);
void run(const Gather& op);
void run(const Combine& op);
void run(const CombineBackward& op);
void run(const GroupedMatmul& op);
void run(const GroupedMatmulDgrad& op);
void run(const GroupedMatmulWgrad& op);
void run(const ExpertsForward& op);
void run(const ExpertsBackward& op);

inline void run(const Op& op) {
  std::visit([](const auto& description) { run(description); }, op);
}

}  // namespace moe::cpu
