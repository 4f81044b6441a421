// One tile of an operand on its way from memory to a block's shared memory: gathered, converted, zero where
// there is nothing.
//
// In shared memory a tile lies as its operand does: [lane][step] where k is contiguous, else [step][lane], in
// rows of kPitch elements that keep the eight rows of an ldmatrix in different banks.
#pragma once

#include "cuda/device/convert.cuh"
#include "cuda/grouped_gemm.h"

namespace moe::cuda {

inline constexpr int kTileLanes = 64;  // rows, or columns, of C
inline constexpr int kTileColumns = kTileLanes;
inline constexpr int kTileSteps = 32;
inline constexpr int kChunk = 8;  // elements that a thread moves at once
inline constexpr int kTileChunks = kTileLanes * kTileSteps / kChunk;

// Elements between stored rows.
template <class T>
__host__ __device__ constexpr int tile_pitch(bool k_contiguous) {
  return (k_contiguous ? kTileSteps : kTileLanes) + 16 / static_cast<int>(sizeof(T));
}
template <class T>
__host__ __device__ constexpr int tile_elements() {
  return kTileLanes * tile_pitch<T>(true) > kTileSteps * tile_pitch<T>(false)
             ? kTileLanes * tile_pitch<T>(true)
             : kTileSteps * tile_pitch<T>(false);
}

// The part of an operand that a tile shows: lanes from `lane` on, steps from `step` on, and where each ends.
struct Window {
  int64_t group, lane, lanes, step, steps;
};

template <class T>
struct alignas(16) Chunk {
  T of[kChunk];
};

// Whether eight elements may be read as vectors.
__device__ inline bool is_aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

// Sixteen-bit products take the bits as they are.
__device__ inline Chunk<uint16_t> read_chunk(DType /*dtype*/, const char* row, int64_t at, int64_t count,
                                             uint16_t /*tag*/) {
  Chunk<uint16_t> chunk{};
  const auto* from = reinterpret_cast<const uint16_t*>(row) + at;
  if (count >= kChunk && is_aligned(from)) return *reinterpret_cast<const Chunk<uint16_t>*>(from);
  for (int i = 0; i < kChunk && i < count; ++i) chunk.of[i] = from[i];
  return chunk;
}

template <class T>
__device__ inline Chunk<float> convert_chunk(const T* from, int64_t count) {
  Chunk<float> chunk{};
  for (int i = 0; i < kChunk && i < count; ++i) chunk.of[i] = to_float(from[i]);
  return chunk;
}

__device__ inline Chunk<float> read_chunk(DType dtype, const char* row, int64_t at, int64_t count,
                                          float /*tag*/) {
  switch (dtype) {
    case DType::bfloat16:
      return convert_chunk(reinterpret_cast<const bfloat16*>(row) + at, count);
    case DType::float16:
      return convert_chunk(reinterpret_cast<const float16*>(row) + at, count);
    default:
      return convert_chunk(reinterpret_cast<const float*>(row) + at, count);
  }
}

// Chunk `index` of a tile.
template <class T>
__device__ Chunk<T> fetch(const Operand& operand, const Window& window, int index) {
  const bool by_lane = operand.k_contiguous;
  const int per_row = (by_lane ? kTileSteps : kTileLanes) / kChunk;
  const int row = index / per_row, column = index % per_row * kChunk;
  const int64_t stored = by_lane ? window.lane + row : window.step + row;
  const int64_t along = by_lane ? window.step + column : window.lane + column;
  const int64_t rows_end = by_lane ? window.lanes : window.steps, end = by_lane ? window.steps : window.lanes;
  if (operand.absent || stored >= rows_end || along >= end) return {};
  const int64_t position =
      operand.row_index != nullptr ? operand.row_index[stored] / operand.row_divisor : stored;
  if (position < 0 || position >= operand.row_count) return {};
  const int64_t bytes = operand.dtype == DType::float32 ? 4 : 2;
  const char* base = static_cast<const char*>(operand.data) +
                     (window.group * operand.group_stride + position * operand.row_stride) * bytes;
  return read_chunk(operand.dtype, base, along, end - along, T{});
}

// To its place in shared memory.
template <class T>
__device__ void put(T* tile, bool k_contiguous, int index, const Chunk<T>& chunk) {
  const int per_row = (k_contiguous ? kTileSteps : kTileLanes) / kChunk;
  T* to = tile + index / per_row * tile_pitch<T>(k_contiguous) + index % per_row * kChunk;
  if constexpr (sizeof(T) == 2) {
    *reinterpret_cast<Chunk<T>*>(to) = chunk;
  } else {
    for (int i = 0; i < kChunk; ++i) to[i] = chunk.of[i];
  }
}

}  // namespace moe::cuda
