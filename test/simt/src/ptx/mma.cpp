// mma.sync: gathers the fragments of a warp into matrices, multiplies, and scatters the result.
#include "simt/ptx/mma.h"

#include "engine.h"
#include "operand_format.h"

namespace simt {
namespace {

struct MmaOperand {
  float* d;
  const uint32_t *a, *b;
  const float* c;
};

// Row and column of element INDEX of lane L of the accumulators.
struct Position {
  unsigned row, column;
};

Position accumulator(unsigned lane, unsigned index) {
  return {.row = lane / 4 + index / 2 * 8, .column = lane % 4 * 2 + index % 2};
}

// K is a multiple of what a lane's quarter holds: PerRegister elements in each of four lanes.
template <class Format, unsigned K>
struct Shape {
  static constexpr unsigned kPerRegister = 4 / sizeof(typename Format::Bits);
  static constexpr unsigned kSpan = 4 * kPerRegister;  // of k, that one register of four lanes covers
  static constexpr unsigned kSpans = K / kSpan;
};

template <class Format, unsigned K>
void apply_mma(const Lanes& lanes) {
  using Of = Shape<Format, K>;
  float a[16][K], b[K][8], sum[16][8];
  lanes.each<MmaOperand>([&](unsigned lane, const MmaOperand& mine) {
    const unsigned group = lane / 4, first = lane % 4 * Of::kPerRegister;
    for (unsigned span = 0; span < Of::kSpans; ++span) {
      for (unsigned index = 0; index < Of::kPerRegister; ++index) {
        const unsigned k = span * Of::kSpan + first + index;
        a[group][k] = element_of_register<Format>(mine.a[2 * span], index);
        a[group + 8][k] = element_of_register<Format>(mine.a[2 * span + 1], index);
        b[k][group] = element_of_register<Format>(mine.b[span], index);
      }
    }
    for (unsigned index = 0; index < 4; ++index) {
      const auto [row, column] = accumulator(lane, index);
      sum[row][column] = mine.c[index];
    }
  });
  for (unsigned row = 0; row < 16; ++row) {
    float products[8] = {};
    for (unsigned k = 0; k < K; ++k) {
      for (unsigned column = 0; column < 8; ++column) products[column] += a[row][k] * b[k][column];
    }
    for (unsigned column = 0; column < 8; ++column) sum[row][column] += products[column];
  }
  lanes.each<MmaOperand>([&](unsigned lane, const MmaOperand& mine) {
    for (unsigned index = 0; index < 4; ++index) {
      const auto [row, column] = accumulator(lane, index);
      mine.d[index] = sum[row][column];
    }
  });
}

template <class Format, unsigned K>
void multiply(MmaOperand mine, const Where& where) {
  static constexpr WarpOperation kMma = {"mma.sync", apply_mma<Format, K>};
  meet_whole_warp(kMma, &mine, where);
}

}  // namespace

namespace ptx {

void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4],
                       Where where) {
  multiply<BFloat16, 16>({.d = d, .a = a, .b = b, .c = c}, where);
}

void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4],
                      Where where) {
  multiply<Float16, 16>({.d = d, .a = a, .b = b, .c = c}, where);
}

void mma_m16n8k8_bf16(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1], const float (&c)[4],
                      Where where) {
  multiply<BFloat16, 8>({.d = d, .a = a, .b = b, .c = c}, where);
}

void mma_m16n8k8_f16(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1], const float (&c)[4],
                     Where where) {
  multiply<Float16, 8>({.d = d, .a = a, .b = b, .c = c}, where);
}

void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4],
                      Where where) {
  multiply<TFloat32, 8>({.d = d, .a = a, .b = b, .c = c}, where);
}

}  // namespace ptx
}  // namespace simt
