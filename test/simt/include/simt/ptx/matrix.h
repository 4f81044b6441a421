// ldmatrix and stmatrix: 8x8 matrices of 16-bit elements between shared memory and a warp's registers.
#pragma once

#include <cstdint>

#include "simt/where.h"

namespace simt {

void load_matrices(uint32_t* registers, int count, bool transposed, uint32_t row_address, Where where);
void store_matrices(uint32_t row_address, int count, bool transposed, const uint32_t* registers, Where where);

namespace ptx {

// ldmatrix.sync.aligned.m8n8.x{1,2,4}.shared.b16. Lanes 8j to 8j+7 give the addresses of the rows of matrix
// j, each of 16 bytes; lane l receives elements 2(l%4) and 2(l%4)+1 of row l/4 in register j.
template <int Count>
void ldmatrix(uint32_t (&registers)[Count], uint32_t row_address, Where where = Where::current()) {
  static_assert(Count == 1 || Count == 2 || Count == 4);
  load_matrices(registers, Count, false, row_address, where);
}
// With .trans: lane l receives elements l/4 of rows 2(l%4) and 2(l%4)+1.
template <int Count>
void ldmatrix_trans(uint32_t (&registers)[Count], uint32_t row_address, Where where = Where::current()) {
  static_assert(Count == 1 || Count == 2 || Count == 4);
  load_matrices(registers, Count, true, row_address, where);
}
// stmatrix.sync.aligned.m8n8.x{1,2,4}.shared.b16, from compute capability 9.0: the inverse.
template <int Count>
void stmatrix(uint32_t row_address, const uint32_t (&registers)[Count], Where where = Where::current()) {
  static_assert(Count == 1 || Count == 2 || Count == 4);
  store_matrices(row_address, Count, false, registers, where);
}
template <int Count>
void stmatrix_trans(uint32_t row_address, const uint32_t (&registers)[Count],
                    Where where = Where::current()) {
  static_assert(Count == 1 || Count == 2 || Count == 4);
  store_matrices(row_address, Count, true, registers, where);
}

}  // namespace ptx
}  // namespace simt
