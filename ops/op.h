// Every op a queue can run, as one variant, and the last trusted gate before it runs.
#pragma once

#include <variant>

#include "ops/dispatch.h"
#include "ops/experts.h"
#include "ops/grouped_matmul.h"
#include "ops/router.h"

namespace moe {

// All elements take `value`.
struct Fill {
  Tensor out;
  float value = 0;
};

// out = source in out's dtype, rounded to nearest even; equal dtypes copy bits.
struct Cast {
  Tensor source, out;
};

using Op = std::variant<Fill, Cast, Route, RouteBackward, RouterLoss, UpdateSelectionBias, Dispatch, Gather,
                        Combine, CombineBackward, GroupedMatmul, GroupedMatmulDgrad, GroupedMatmulWgrad,
                        ExpertsForward, ExpertsBackward>;

// Throws Error unless every tensor of the op has the dtype and shape that its description says. What lies
// inside tensors (expert ids, offsets) is checked by the kernels, which report ERR_INDEX_RANGE and touch
// nothing out of bounds.
void validate(const Op& op);

// The op's name in error messages, or that of an alternative of the variant.
const char* name_of(const Op& op);
const char* name_of_op(size_t alternative);

}  // namespace moe
