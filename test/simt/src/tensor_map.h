// What a CUtensorMap holds here, and the boxes that it describes.
#pragma once

#include <cstdint>

#include "cuda.h"

namespace simt {

constexpr int kMostRank = 5;

struct TensorMap {
  uint32_t mark;
  uint8_t rank, element_bytes, swizzle_bytes, fill_with_nan;
  uint8_t type;
  uint8_t element_strides[kMostRank];
  uint16_t box[kMostRank];
  uint64_t address;
  uint64_t strides[kMostRank];  // in bytes; that of dimension 0 is the size of an element
  uint32_t last[kMostRank];     // elements of each dimension, less one

  uint64_t elements(int dimension) const { return uint64_t{last[dimension]} + 1; }
  // Of the box in shared memory, along a dimension: every element_stride-th.
  uint32_t box_elements(int dimension) const;
  uint32_t row_bytes() const { return box_elements(0) * element_bytes; }
  uint32_t rows() const;
  uint32_t box_bytes() const { return row_bytes() * rows(); }
};
static_assert(sizeof(TensorMap) <= sizeof(CUtensorMap));

// For the running thread; an error where MAP is none.
TensorMap read_tensor_map(const CUtensorMap* map);
void write_tensor_map(CUtensorMap* map, const TensorMap& content);

// A row of a box: where it starts in global memory, and which of its elements are inside the tensor.
struct BoxRow {
  uint64_t address;                         // of what would be its first element
  uint32_t inside_from = 0, inside_to = 0;  // elements
};
BoxRow box_row(const TensorMap& map, const int32_t* coordinates, uint32_t row);

}  // namespace simt
