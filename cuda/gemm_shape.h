// What of a grouped product its configuration is chosen by: nothing that lies on the device.
#pragma once

#include "cuda/runtime.h"
#include "ops/grouped_gemm.h"

namespace moe::cuda {

struct GemmShape {
  // The dtype of all operands; float32 where they differ or must not round.
  DType format = DType::float32;
  bool tf32 = false;  // float32 operands may be rounded to tf32
  Ragged ragged = Ragged::m;
  int32_t groups = 1;
  int64_t rows = 0;             // R
  int64_t m = 0, n = 0, k = 0;  // those that are not ragged; k of the longest segment
  bool side_by_side = false;
  // Every stored row of every operand starts at a multiple of 16 bytes: hardware may copy it.
  bool aligned = false;
};

// Tiles of so many rows and columns that there can be at most: groups end in tiles that are not full. Side by
// side, half of a tile's columns is each matrix's.
int64_t most_tiles(const GemmShape& shape, int rows, int columns);

GemmShape shape_of(const GroupedGemm& gemm, bool allow_tf32);

}  // namespace moe::cuda
