// Descriptors of wgmma operands in shared memory: where element (mn, k) of a matrix is.
#pragma once

#include <cstdint>

namespace simt {

class MatrixDescriptor {
 public:
  // For the running thread: refuses what no instruction accepts.
  MatrixDescriptor(uint64_t bits, bool mn_major, uint32_t element_bytes);

  // The shared address of the 16-byte chunk that holds the element: chunks run along k, or along mn where
  // that is the major dimension.
  uint32_t chunk_of(uint32_t mn, uint32_t k) const;
  bool mn_major() const { return mn_major_; }
  uint32_t chunk_elements() const { return chunk_elements_; }

 private:
  uint32_t start_, leading_, stride_, swizzle_;
  uint32_t chunk_elements_;
  bool mn_major_;
};

}  // namespace simt
