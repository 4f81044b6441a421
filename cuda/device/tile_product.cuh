// The product of two tiles in shared memory, added to sums in registers: by tensor cores for sixteen-bit
// operands, by fused multiply-adds for float32. Each element of C is one chain over ascending k.
#pragma once

#include "cuda/device/operand_tile.cuh"
#include "cuda/device/ptx.cuh"
#include "cuda/device/warp.cuh"

namespace moe::cuda {

// A tile of C in shared memory, for the epilogue.
inline constexpr int kSumPitch = kTileColumns + 4;

// Four warps, each with 32 × 32 of the tile as 2 × 4 products of m16n8k16.
template <DType kFormat>
struct TensorCores {
  using Element = uint16_t;
  static constexpr int kThreads = 128;
  float sums[2][4][4] = {};

  __device__ void add(const Element* a, bool a_by_lane, const Element* b, bool b_by_lane) {
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    const int row = warp / 2 * 32, column = warp % 2 * 32;
    for (int step = 0; step < kTileSteps; step += 16) {
      uint32_t left[2][4], right[2][4];
      for (int i = 0; i < 2; ++i) load_a(left[i], a, a_by_lane, row + i * 16, step);
      for (int j = 0; j < 2; ++j) load_b(right[j], b, b_by_lane, column + j * 16, step);
      for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 4; ++j) {
          const uint32_t pair[2] = {right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]};
          multiply(sums[i][j], left[i], pair);
        }
      }
    }
  }

  __device__ void store(float* c) const {
    const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = lane_id();
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 4; ++j) {
        const int row = warp / 2 * 32 + i * 16 + lane / 4, column = warp % 2 * 32 + j * 8 + lane % 4 * 2;
        float* first = c + row * kSumPitch + column;
        float* second = first + 8 * kSumPitch;
        first[0] = sums[i][j][0];
        first[1] = sums[i][j][1];
        second[0] = sums[i][j][2];
        second[1] = sums[i][j][3];
      }
    }
  }

 private:
  __device__ static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    if constexpr (kFormat == DType::bfloat16) {
      ptx::mma_m16n8k16_bf16(d, a, b);
    } else {
      ptx::mma_m16n8k16_f16(d, a, b);
    }
  }

  // 16 rows × 16 steps: matrices (rows 0-7, steps 0-7), (rows 8-15, steps 0-7), and the same of steps 8-15.
  __device__ static void load_a(uint32_t (&to)[4], const Element* a, bool by_lane, int row, int step) {
    const int lane = lane_id(), matrix = lane / 8, inner = lane % 8;
    if (by_lane) {
      ptx::ldmatrix_x4(
          to, a + (row + matrix % 2 * 8 + inner) * tile_pitch<Element>(true) + step + matrix / 2 * 8);
    } else {
      ptx::ldmatrix_x4_trans(
          to, a + (step + matrix / 2 * 8 + inner) * tile_pitch<Element>(false) + row + matrix % 2 * 8);
    }
  }

  // 16 columns × 16 steps: for each eight columns, steps 0-7 and 8-15.
  __device__ static void load_b(uint32_t (&to)[4], const Element* b, bool by_lane, int column, int step) {
    const int lane = lane_id(), matrix = lane / 8, inner = lane % 8;
    if (by_lane) {
      ptx::ldmatrix_x4(
          to, b + (column + matrix / 2 * 8 + inner) * tile_pitch<Element>(true) + step + matrix % 2 * 8);
    } else {
      ptx::ldmatrix_x4_trans(
          to, b + (step + matrix % 2 * 8 + inner) * tile_pitch<Element>(false) + column + matrix / 2 * 8);
    }
  }
};

// Each of 256 threads has 4 × 4 of the tile.
struct MultiplyAdds {
  using Element = float;
  static constexpr int kThreads = 256;
  float sums[4][4] = {};

  __device__ void add(const Element* a, bool a_by_lane, const Element* b, bool b_by_lane) {
    const int row = static_cast<int>(threadIdx.x) / 16 * 4, column = static_cast<int>(threadIdx.x) % 16 * 4;
    for (int step = 0; step < kTileSteps; ++step) {
      float left[4], right[4];
      for (int i = 0; i < 4; ++i) left[i] = element(a, a_by_lane, row + i, step);
      for (int j = 0; j < 4; ++j) right[j] = element(b, b_by_lane, column + j, step);
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(left[i], right[j], sums[i][j]);
    }
  }

  __device__ void store(float* c) const {
    const int row = static_cast<int>(threadIdx.x) / 16 * 4, column = static_cast<int>(threadIdx.x) % 16 * 4;
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j) c[(row + i) * kSumPitch + column + j] = sums[i][j];
  }

 private:
  __device__ static float element(const Element* tile, bool by_lane, int lane, int step) {
    return by_lane ? tile[lane * tile_pitch<Element>(true) + step]
                   : tile[step * tile_pitch<Element>(false) + lane];
  }
};

}  // namespace moe::cuda
