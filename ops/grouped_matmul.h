// Grouped products over ragged groups of rows. offsets int32 [E+1] ascend from 0 to at most R; rows
// past the last belong to no group, and outputs are zero there.
#pragma once

#include "ops/activation.h"
#include "ops/tensor.h"

namespace moe {

// out[r] = activation(rows[r] · weight[e]ᵀ + bias[e])
struct GroupedMatmul {
  ActivationSpec activation;
  Tensor rows, weight, offsets;  // [R, C], [E, N, C], int32 [E+1]
  Tensor bias;                   // [E, N], optional
  Tensor out;                    // [R, N] or, gated, [R, N/2]
  Tensor pre_activation;         // [R, N], out, optional
};

// d_rows[r] = d_out[r] · weight[e], carried on through the activation that was applied to `pre_activation`
struct GroupedMatmulDgrad {
  ActivationSpec activation;
  Tensor d_out, weight, offsets;  // [R, N], [E, N, C], int32 [E+1]
  Tensor pre_activation;          // [R, C] or, gated, [R, 2C]; optional for identity
  Tensor d_rows;                  // the shape of pre_activation, or [R, C]
};

// d_weight[e] = Σ_r d_out[r]ᵀ · rows[r], d_bias[e] = Σ_r d_out[r], over the rows of group e in their order
struct GroupedMatmulWgrad {
  Tensor d_out, rows, offsets;  // [R, N], [R, C], int32 [E+1]
  Tensor d_weight;              // [E, N, C], out
  Tensor d_bias;                // [E, N], out, optional
  bool accumulate_d_weight = false, accumulate_d_bias = false;
};

}  // namespace moe
