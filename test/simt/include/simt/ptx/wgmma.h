// wgmma: matrix products of a warpgroup, m64nNk16 of 16-bit operands and m64nNk8 of tf32, in float32.
// Products are made when the warpgroup waits for them: until then the accumulators are not numbers, and
// shared memory must stay as it is.
//
// With w the warp in the warpgroup, g = lane / 4 and t = lane % 4: accumulator i is row 16w + g + 8(i/2 % 2),
// column 8(i/4) + 2t + i % 2; operand a in registers has the fragments of mma.sync m16n8k16 (m16n8k8 for
// tf32) for rows 16w on.
//
// Descriptors are decoded as "Matrix descriptor format" says: start address (bits 0-13), leading (16-29) and
// stride (32-45) dimension byte offsets, all divided by 16, base offset (49-51), swizzle (62-63: none, 128,
// 64, 32 bytes). A base offset other than 0 is refused: start the swizzle pattern at a multiple of its size.
#pragma once

#include <cstdint>

#include "simt/where.h"

namespace simt {

struct WgmmaOptions {
  bool scale_d = true;  // false: d = a * b, without what d was
  bool negate_a = false, negate_b = false;
  bool transpose_a = false, transpose_b = false;  // MN-major in shared memory; 16-bit operands only
};

enum class WgmmaFormat { bf16, f16, tf32 };

struct WgmmaCall {
  WgmmaFormat format;
  int n;
  float* d;
  const uint32_t* a;  // four registers, or null
  uint64_t a_descriptor, b_descriptor;
  WgmmaOptions options;
};

void wgmma_issue(const WgmmaCall& call, Where where);

namespace ptx {

// A from shared memory.
template <int N>
void wgmma_m64k16_bf16(float (&d)[N / 2], uint64_t a, uint64_t b, WgmmaOptions options = {},
                       Where where = Where::current()) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256);
  wgmma_issue({WgmmaFormat::bf16, N, d, nullptr, a, b, options}, where);
}
template <int N>
void wgmma_m64k16_f16(float (&d)[N / 2], uint64_t a, uint64_t b, WgmmaOptions options = {},
                      Where where = Where::current()) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256);
  wgmma_issue({WgmmaFormat::f16, N, d, nullptr, a, b, options}, where);
}
template <int N>
void wgmma_m64k8_tf32(float (&d)[N / 2], uint64_t a, uint64_t b, WgmmaOptions options = {},
                      Where where = Where::current()) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256);
  wgmma_issue({WgmmaFormat::tf32, N, d, nullptr, a, b, options}, where);
}
// A from registers, read when the product is issued.
template <int N>
void wgmma_m64k16_bf16(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, WgmmaOptions options = {},
                       Where where = Where::current()) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256);
  wgmma_issue({WgmmaFormat::bf16, N, d, a, 0, b, options}, where);
}
template <int N>
void wgmma_m64k16_f16(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, WgmmaOptions options = {},
                      Where where = Where::current()) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256);
  wgmma_issue({WgmmaFormat::f16, N, d, a, 0, b, options}, where);
}
template <int N>
void wgmma_m64k8_tf32(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, WgmmaOptions options = {},
                      Where where = Where::current()) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256);
  wgmma_issue({WgmmaFormat::tf32, N, d, a, 0, b, options}, where);
}

// wgmma.fence, needed before the first product and between other uses of its registers and the next.
void wgmma_fence(Where where = Where::current());
void wgmma_commit_group(Where where = Where::current());
// Until at most PENDING of the latest groups are incomplete.
void wgmma_wait_group(int pending, Where where = Where::current());

}  // namespace ptx
}  // namespace simt
