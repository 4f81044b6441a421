// The product of two tiles in shared memory, added to sums in registers: by tensor cores, or by fused
// multiply-adds for float32. Each element of C is one chain over ascending k.
#pragma once

#include "cuda/device/operand_tile.cuh"
#include "cuda/device/ptx.cuh"
#include "cuda/device/warp.cuh"
#include "cuda/gemm_config.h"

namespace moe::cuda {

// What all products of a size have: their tiles, and that of C in shared memory for the epilogue.
template <class T, TileSize kSize, int kBlockThreads>
struct ProductTiles {
  static constexpr TileShape kShape = tile_of(kSize);
  static constexpr int kM = kShape.m, kN = kShape.n, kSteps = kShape.step_bytes / static_cast<int>(sizeof(T));
  static constexpr int kThreads = kBlockThreads;
  static constexpr int kSumPitch = kN + 4;
  using Element = T;
  using TileA = OperandTile<T, kM, kSteps>;
  using TileB = OperandTile<T, kN, kSteps>;
  using LoaderA = TileLoader<T, kM, kSteps, kThreads>;
  using LoaderB = TileLoader<T, kN, kSteps, kThreads>;
};

template <Arithmetic kArithmetic>
using TensorElement = std::conditional_t<kArithmetic == Arithmetic::tf32, float, uint16_t>;

// A grid of warps, each with sums of m16n8 products.
template <TileSize kSize>
struct WarpGrid {
  static constexpr int kRows = tile_of(kSize).m == 16 ? 1 : 2;
  static constexpr int kColumns = kSize == TileSize::small ? 2 : 4;
};

template <Arithmetic kArithmetic, TileSize kSize>
class TensorCores : public ProductTiles<TensorElement<kArithmetic>, kSize,
                                        kWarp * WarpGrid<kSize>::kRows * WarpGrid<kSize>::kColumns> {
  using Base = ProductTiles<TensorElement<kArithmetic>, kSize,
                            kWarp * WarpGrid<kSize>::kRows * WarpGrid<kSize>::kColumns>;

 public:
  using typename Base::TileA, typename Base::TileB;

  template <bool kAByLane, bool kBByLane>
  __device__ void add(const TileA& a, const TileB& b) {
    for (int step = 0; step < Base::kSteps; step += kDepth) {
      uint32_t left[kDown][4], right[kAcross][2];
      for (int i = 0; i < kDown; ++i) load_a<kAByLane>(left[i], a, row() + i * 16, step);
      for (int j = 0; j < kAcross; j += 2)
        load_b<kBByLane>(right[j], right[j + 1], b, column() + j * 8, step);
      for (int i = 0; i < kDown; ++i)
        for (int j = 0; j < kAcross; ++j) ptx::mma_m16n8<kArithmetic>(sums_[i][j], left[i], right[j]);
    }
  }

  __device__ void store(float* c) const {
    const int lane = lane_id();
    for (int i = 0; i < kDown; ++i) {
      for (int j = 0; j < kAcross; ++j) {
        float* first = c + (row() + i * 16 + lane / 4) * Base::kSumPitch + column() + j * 8 + lane % 4 * 2;
        float* second = first + 8 * Base::kSumPitch;
        first[0] = sums_[i][j][0];
        first[1] = sums_[i][j][1];
        second[0] = sums_[i][j][2];
        second[1] = sums_[i][j][3];
      }
    }
  }

 private:
  using Grid = WarpGrid<kSize>;
  static constexpr int kDepth = 32 / static_cast<int>(sizeof(typename Base::Element));  // k of an instruction
  // A warp's instructions along rows and columns.
  static constexpr int kDown = Base::kM / Grid::kRows / 16, kAcross = Base::kN / Grid::kColumns / 8;

  __device__ static int row() { return static_cast<int>(threadIdx.x) / kWarp / Grid::kColumns * kDown * 16; }
  __device__ static int column() {
    return static_cast<int>(threadIdx.x) / kWarp % Grid::kColumns * kAcross * 8;
  }

  // 16 rows: of sixteen-bit elements, matrices (rows 0-7, steps 0-7), (rows 8-15, steps 0-7), and the same of
  // steps 8-15.
  template <bool kByLane>
  __device__ static void load_a(uint32_t (&to)[4], const TileA& a, int row, int step) {
    const int lane = lane_id();
    if constexpr (kArithmetic == Arithmetic::tf32) {
      for (int i = 0; i < 4; ++i)
        to[i] =
            ptx::tf32_of(*a.template at<kByLane>(row + i % 2 * 8 + lane / 4, step + i / 2 * 4 + lane % 4));
    } else {
      const int matrix = lane / 8, inner = lane % 8;
      const int along_row = matrix % 2 * 8, along_k = matrix / 2 * 8;
      ptx::ldmatrix_x4<!kByLane>(to, kByLane ? a.template at<true>(row + along_row + inner, step + along_k)
                                             : a.template at<false>(row + along_row, step + along_k + inner));
    }
  }

  // 16 columns: for each eight of them, the lower and the upper half of the steps.
  template <bool kByLane>
  __device__ static void load_b(uint32_t (&low)[2], uint32_t (&high)[2], const TileB& b, int column,
                                int step) {
    const int lane = lane_id();
    uint32_t to[4];
    if constexpr (kArithmetic == Arithmetic::tf32) {
      for (int i = 0; i < 4; ++i)
        to[i] =
            ptx::tf32_of(*b.template at<kByLane>(column + i / 2 * 8 + lane / 4, step + i % 2 * 4 + lane % 4));
    } else {
      const int matrix = lane / 8, inner = lane % 8;
      const int along_column = matrix / 2 * 8, along_k = matrix % 2 * 8;
      ptx::ldmatrix_x4<!kByLane>(
          to, kByLane ? b.template at<true>(column + along_column + inner, step + along_k)
                      : b.template at<false>(column + along_column, step + along_k + inner));
    }
    low[0] = to[0];
    low[1] = to[1];
    high[0] = to[2];
    high[1] = to[3];
  }

  float sums_[kDown][kAcross][4] = {};
};

// Threads that have at least 16 sums each, so that what they load is used several times.
template <TileSize kSize>
inline constexpr int kThreadsOfMultiplyAdds =
    tile_of(kSize).m * tile_of(kSize).n / 16 < 256 ? tile_of(kSize).m * tile_of(kSize).n / 16 : 256;

// A grid of threads, 16 along a row, each with the rows and columns of the tile that are as far apart as the
// grid is large: neighbours read different banks.
template <TileSize kSize>
class MultiplyAdds : public ProductTiles<float, kSize, kThreadsOfMultiplyAdds<kSize>> {
  using Base = ProductTiles<float, kSize, kThreadsOfMultiplyAdds<kSize>>;

 public:
  using typename Base::TileA, typename Base::TileB;

  template <bool kAByLane, bool kBByLane>
  __device__ void add(const TileA& a, const TileB& b) {
    for (int step = 0; step < Base::kSteps; ++step) {
      float left[kDown], right[kAcross];
      for (int i = 0; i < kDown; ++i) left[i] = *a.template at<kAByLane>(row(i), step);
      for (int j = 0; j < kAcross; ++j) right[j] = *b.template at<kBByLane>(column(j), step);
      for (int i = 0; i < kDown; ++i)
        for (int j = 0; j < kAcross; ++j) sums_[i][j] = fmaf(left[i], right[j], sums_[i][j]);
    }
  }

  __device__ void store(float* c) const {
    for (int i = 0; i < kDown; ++i)
      for (int j = 0; j < kAcross; ++j) c[row(i) * Base::kSumPitch + column(j)] = sums_[i][j];
  }

 private:
  static constexpr int kWidth = 16, kHeight = Base::kThreads / kWidth;
  static constexpr int kDown = Base::kM / kHeight, kAcross = Base::kN / kWidth;

  __device__ static int row(int i) { return static_cast<int>(threadIdx.x) / kWidth + i * kHeight; }
  __device__ static int column(int j) { return static_cast<int>(threadIdx.x) % kWidth + j * kWidth; }

  float sums_[kDown][kAcross] = {};
};

template <Arithmetic kArithmetic, TileSize kSize>
using TileProduct = std::conditional_t<kArithmetic == Arithmetic::float32, MultiplyAdds<kSize>,
                                       TensorCores<kArithmetic, kSize>>;

}  // namespace moe::cuda
