// ldmatrix and stmatrix.
#include "simt/ptx/matrix.h"

#include <cstring>

#include "architecture.h"
#include "engine.h"
#include "simt/ptx/address.h"

namespace simt {
namespace {

constexpr uint32_t kRowBytes = 16;

struct MatrixOperand {
  uint32_t* to;
  const uint32_t* from;
  int count;
  bool transposed;
  unsigned char* row;  // this lane's; null where the instruction reads no address of it
};

using Matrix = uint16_t[8][8];

unsigned char* row_of(uint32_t address, int count) {
  return static_cast<int>(self().lane) < 8 * count ? shared_bytes(address, kRowBytes, kRowBytes) : nullptr;
}

// Where lane L's element HALF of a matrix is: by rows, or by columns.
uint16_t& element_of(Matrix& matrix, unsigned lane, unsigned half, bool transposed) {
  const unsigned outer = lane / 4, inner = lane % 4 * 2 + half;
  return transposed ? matrix[inner][outer] : matrix[outer][inner];
}

void apply_load(const Lanes& lanes) {
  const int count = lanes.operand<MatrixOperand>(0).count;
  for (int index = 0; index < count; ++index) {
    Matrix matrix;
    for (unsigned row = 0; row < 8; ++row) {
      std::memcpy(matrix[row], lanes.operand<MatrixOperand>(static_cast<unsigned>(index) * 8 + row).row,
                  kRowBytes);
    }
    lanes.each<MatrixOperand>([&](unsigned lane, const MatrixOperand& mine) {
      const uint32_t low = element_of(matrix, lane, 0, mine.transposed);
      const uint32_t high = element_of(matrix, lane, 1, mine.transposed);
      mine.to[index] = high << 16 | low;
    });
  }
}

void apply_store(const Lanes& lanes) {
  const int count = lanes.operand<MatrixOperand>(0).count;
  for (int index = 0; index < count; ++index) {
    Matrix matrix;
    lanes.each<MatrixOperand>([&](unsigned lane, const MatrixOperand& mine) {
      element_of(matrix, lane, 0, mine.transposed) = static_cast<uint16_t>(mine.from[index]);
      element_of(matrix, lane, 1, mine.transposed) = static_cast<uint16_t>(mine.from[index] >> 16);
    });
    for (unsigned row = 0; row < 8; ++row) {
      std::memcpy(lanes.operand<MatrixOperand>(static_cast<unsigned>(index) * 8 + row).row, matrix[row],
                  kRowBytes);
    }
  }
}

constexpr WarpOperation kLoad = {"ldmatrix", apply_load};
constexpr WarpOperation kStore = {"stmatrix", apply_store};

}  // namespace

void load_matrices(uint32_t* registers, int count, bool transposed, uint32_t row_address, Where where) {
  enter("ldmatrix", where);
  MatrixOperand mine = {.to = registers,
                        .from = nullptr,
                        .count = count,
                        .transposed = transposed,
                        .row = row_of(row_address, count)};
  meet_whole_warp(kLoad, &mine, where);
}

void store_matrices(uint32_t row_address, int count, bool transposed, const uint32_t* registers,
                    Where where) {
  enter("stmatrix", where);
  require_hopper("stmatrix");
  MatrixOperand mine = {.to = nullptr,
                        .from = registers,
                        .count = count,
                        .transposed = transposed,
                        .row = row_of(row_address, count)};
  meet_whole_warp(kStore, &mine, where);
}

}  // namespace simt
