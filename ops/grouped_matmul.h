// Grouped products over ragged groups of rows. offsets int32 [E+1] ascend from 0 to at most R; rows
// past the last belong to no group, and outputs are zero there.
#pragma once

#include "ops/experts.h"
#include "ops/tensor.h"

namespace moe {

// out[r] = activation(rows[r] · weight[e]ᵀ + bias[e])
struct GroupedMatmul {
  ActivationSpec activation;
  Tensor rows, weight, offsets;  // [R, C], [E, N, C] or transposed [E, C, N], int32 [E+1]
  Tensor bias;                   // [E, N], optional
  // Rows of weight, elements of bias and columns of pre_activation alternate between gate and up.
  bool interleaved = false;
  bool transposed = false;
  Tensor out;             // [R, N] or, gated, [R, N/2]
  Tensor pre_activation;  // [R, N], out, optional
};

// d_rows[r] = d_out[r] · weight[e], carried on through the activation that was applied to `pre_activation`
struct GroupedMatmulDgrad {
  ActivationSpec activation;
  Tensor d_out, weight, offsets;  // [R, N], [E, N, C] or transposed [E, C, N], int32 [E+1]
  Tensor pre_activation;          // [R, C] or, gated, [R, 2C]; optional for identity
  bool interleaved = false;       // columns of pre_activation and of d_rows
  bool transposed = false;
  Tensor d_rows;  // the shape of pre_activation, or [R, C]
};

// d_weight[e] = Σ_r d_out[r]ᵀ · rows[r], d_bias[e] = Σ_r d_out[r], over the rows of group e in their order
struct GroupedMatmulWgrad {
  Tensor d_out, rows, offsets;  // [R, N], [R, C], int32 [E+1]
  Tensor d_weight;              // [E, N, C] or transposed [E, C, N], out
  Tensor d_bias;                // [E, N], out, optional
  bool transposed = false;
  bool accumulate_d_weight = false, accumulate_d_bias = false;
};

}  // namespace moe
