// What each expert gets of the slots, and how unequal that is.
#pragma once

#include "cuda/context.h"
#include "ops/router.h"

namespace moe::cuda {

// out[e] (+)= Σ of the values of the slots that chose e and are served, without those of padding; nothing
// for absent values.
struct ExpertSums {
  Tensor indices;        // int32 [T, K]
  Tensor values;         // float32 [T, K], optional
  Tensor dropped, mask;  // optional
  Tensor out;            // [E] of any float dtype
  bool accumulate = false;
};
void sum_by_expert(const ExpertSums& sums, const Context& context);

// [runs, E]: the sums of each run's equal share of the rows of `partials`, in their order.
Workspace add_chunks(const Tensor& partials, int64_t runs, const Context& context);

// loss = coefficient · CV² of the sums, and its derivative to each of them.
struct Variation {
  const float* sums;  // [E]
  int64_t experts;
  float coefficient;
  float* loss;
  float* slopes;  // [E]
};
void squared_variation(const Variation& variation, const Context& context);

}  // namespace moe::cuda
