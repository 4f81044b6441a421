#include "cuda/gemm_shape.h"

#include <algorithm>

namespace moe::cuda {
namespace {

bool is_aligned(const Operand& operand) {
  constexpr int64_t kVector = 16;
  const auto bytes = static_cast<int64_t>(bytes_of(operand.dtype));
  return operand.absent ||
         (reinterpret_cast<uintptr_t>(operand.data) % kVector == 0 &&
          operand.row_stride * bytes % kVector == 0 && operand.group_stride * bytes % kVector == 0);
}

int64_t tiles_along(int64_t length, int64_t tile) {
  return (length + tile - 1) / tile;
}

}  // namespace

int64_t most_tiles(const GemmShape& shape, int rows, int columns) {
  const int64_t down = shape.ragged == Ragged::m ? std::min(shape.rows, shape.rows / rows + shape.groups)
                                                 : tiles_along(shape.m, rows) * shape.groups;
  return down * tiles_along(shape.n, shape.side_by_side ? columns / 2 : columns);
}

GemmShape shape_of(const GroupedGemm& gemm, bool allow_tf32) {
  GemmShape shape = {.format = gemm.segments[0].a.dtype,
                     .ragged = gemm.ragged,
                     .groups = gemm.groups,
                     .rows = gemm.rows,
                     .m = gemm.m,
                     .n = gemm.n,
                     .side_by_side = gemm.side_by_side,
                     .aligned = true};
  bool mixed = false;
  const auto consider = [&](const Operand& operand) {
    mixed = mixed || operand.dtype != gemm.segments[0].a.dtype;
    shape.aligned = shape.aligned && is_aligned(operand);
  };
  for (const Segment& segment : gemm.segments) {
    shape.k = std::max(shape.k, segment.k);
    consider(segment.a);
    consider(segment.b[0]);
    if (gemm.side_by_side) consider(segment.b[1]);
  }
  if (gemm.exact || mixed) shape.format = DType::float32;
  shape.tf32 = shape.format == DType::float32 && allow_tf32 && !gemm.exact && !mixed;
  return shape;
}

}  // namespace moe::cuda
