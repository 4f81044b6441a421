// The canonical layouts of "Shared memory matrix layout" in the PTX manual, in chunks of 16 bytes: T
// elements. With w the chunks of a swizzle (1 for none, 2, 4, 8), LBO and SBO the leading and stride
// dimension byte offsets:
//
//   K-major, no swizzle    ((8,m),(T,2)):  8 rows of 16 bytes each, LBO to the next chunk of k, SBO to the
//   next 8 rows K-major, swizzled      8 rows of w chunks each, the next chunk of k beside it, SBO to the
//   next 8 rows MN-major, no swizzle   ((T,1,m),(8,k)):  8 values of k of 16 bytes each, SBO to the next
//   chunk of mn, LBO to the next 8 MN-major, swizzled     ((T,w,m),(8,k)):  8 values of k of w chunks each,
//   LBO to the next w chunks of mn, SBO to the next 8
#include "matrix_descriptor.h"

#include "report.h"
#include "swizzle.h"

namespace simt {
namespace {

constexpr uint32_t kChunk = 16;

uint32_t decoded(uint64_t bits, unsigned first) {
  return static_cast<uint32_t>(bits >> first & 0x3fff) << 4;
}

}  // namespace

MatrixDescriptor::MatrixDescriptor(uint64_t bits, bool mn_major, uint32_t element_bytes)
    : start_(decoded(bits, 0)),
      leading_(decoded(bits, 16)),
      stride_(decoded(bits, 32)),
      chunk_elements_(kChunk / element_bytes),
      mn_major_(mn_major) {
  constexpr uint32_t kWidths[] = {0, 128, 64, 32};
  swizzle_ = kWidths[bits >> 62];
  if ((bits >> 49 & 7) != 0) {
    fail(
        "wgmma: a matrix descriptor with a base offset: the swizzle pattern must start at a multiple of its "
        "size");
  }
  if (mn_major && element_bytes != 2) fail("wgmma: MN-major operands have 16-bit elements");
}

uint32_t MatrixDescriptor::chunk_of(uint32_t mn, uint32_t k) const {
  const uint32_t width = swizzle_ == 0 ? kChunk : swizzle_;
  uint32_t offset = 0;
  if (!mn_major_) {
    const uint32_t chunk = k / chunk_elements_;
    offset = mn % 8 * width + mn / 8 * stride_ + chunk * (swizzle_ == 0 ? leading_ : kChunk);
  } else {
    const uint32_t chunk = mn / chunk_elements_, chunks = width / kChunk;
    const uint32_t along_mn = swizzle_ == 0 ? stride_ : leading_,
                   along_k = swizzle_ == 0 ? leading_ : stride_;
    offset = chunk % chunks * kChunk + chunk / chunks * along_mn + k % 8 * width + k / 8 * along_k;
  }
  return swizzled(start_ + offset, swizzle_);
}

}  // namespace simt
