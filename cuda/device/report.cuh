// Leaving word of a bad index: the first kernel that finds one is heard.
#pragma once

#include "cuda/failure.h"

namespace moe::cuda {

__device__ inline void FailureReport::operator()(int32_t got, int32_t least, int32_t limit) const {
  if (atomicExch(&failure->taken, 1) != 0) return;
  failure->op = op;
  failure->argument = argument;
  failure->least = least;
  failure->limit = limit;
  failure->got = got;
}

}  // namespace moe::cuda
