// mma.sync.aligned.*.row.col: d = a * b + c for a warp, in float32. With g = lane / 4 and t = lane % 4,
// "Matrix fragments for mma" of the PTX manual places elements in lanes like this:
//
//   accumulators c, d (16x8):  [0] (g, 2t)  [1] (g, 2t+1)  [2] (g+8, 2t)  [3] (g+8, 2t+1)
//   a, 16x16 of 16 bits:       [0] row g, columns 2t, 2t+1  [1] row g+8  [2] row g, columns +8  [3] row g+8,
//   columns +8 a, 16x8 of 16 bits:        [0] row g, columns 2t, 2t+1  [1] row g+8 a, 16x8 of tf32: [0] (g,
//   t)  [1] (g+8, t)  [2] (g, t+4)  [3] (g+8, t+4) b, 16x8 of 16 bits:        [0] rows 2t, 2t+1 of column g
//   [1] rows +8 b, 8x8 of 16 bits:         [0] rows 2t, 2t+1 of column g b, 8x8 of tf32:            [0] (t,
//   g)  [1] (t+4, g)
//
// Products are exact in float32 and summed in order of k, then to c; a device sums in an order of its own.
#pragma once

#include <cstdint>

#include "simt/where.h"

namespace simt::ptx {

void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4],
                       Where where = Where::current());
void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4],
                      Where where = Where::current());
void mma_m16n8k8_bf16(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1], const float (&c)[4],
                      Where where = Where::current());
void mma_m16n8k8_f16(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1], const float (&c)[4],
                     Where where = Where::current());
// The low 13 bits of tf32 operands are ignored.
void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4],
                      Where where = Where::current());

}  // namespace simt::ptx
