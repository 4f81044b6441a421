// Tiles of an operand on their way from memory to a block's shared memory: gathered, converted, zero where
// there is nothing.
//
// A tile of lanes (rows, or columns, of C) by steps of k lies in shared memory as its operand does:
// [lane][step] where k is contiguous, else [step][lane]. Its rows are padded so that what a warp reads at
// once lies in different banks, and each starts at a multiple of 16 bytes.
#pragma once

#include "cuda/device/convert.cuh"
#include "cuda/device/stored_rows.cuh"

namespace moe::cuda {

template <class T, int kLanes, int kSteps>
struct OperandTile {
  static constexpr int kChunk = 16 / static_cast<int>(sizeof(T));  // elements that a thread moves at once
  static constexpr int kChunks = kLanes * kSteps / kChunk;

  // Elements from one row to the next.
  template <bool kByLane>
  static constexpr int kPitch = kByLane ? kSteps + kChunk : kLanes + 8;

  T elements[kLanes * kPitch<true> > kSteps* kPitch<false> ? kLanes* kPitch<true> : kSteps* kPitch<false>];

  template <bool kByLane>
  __device__ const T* at(int lane, int step) const {
    return elements + (kByLane ? lane * kPitch<true> + step : step * kPitch<false> + lane);
  }
};

// Which part of a segment's operand, or of its two matrices side by side, a tile shows.
struct Extent {
  int64_t group;
  int64_t lane, end_lane;  // of the operand; side by side, the same of both matrices
  int64_t step, end_step;  // the first is where the segment's steps are counted from
  bool side_by_side;
};

// A thread's chunks of the tiles of an operand, step after step.
template <class T, int kLanes, int kSteps, int kThreads>
class TileLoader {
 public:
  using Tile = OperandTile<T, kLanes, kSteps>;

  // Turns to the operands of another segment.
  __device__ void enter(const Operand* operands, const Extent& extent) {
    operands_ = operands;
    step_ = extent.step;
    end_step_ = extent.end_step;
    for (int i = 0; i < kEach; ++i) {
      const int lane =
          by_lane() ? index_of(i) / kRowChunks<true> : index_of(i) % kRowChunks<false> * Tile::kChunk;
      // Each matrix has half of the lanes.
      const int half = extent.side_by_side && lane >= kLanes / 2 ? 1 : 0;
      const int64_t own = extent.lane + lane - half * (kLanes / 2);
      const int64_t most = extent.side_by_side ? extent.lane + kLanes / 2 : extent.end_lane;
      const int64_t end = most < extent.end_lane ? most : extent.end_lane;
      const Operand& operand = operands[half];
      const int64_t position = by_lane() && own < end ? position_of(operand, own) : 0;
      const bool there = own < end && position >= 0 && !operand.absent;
      const int64_t first = position * operand.row_stride + (by_lane() ? 0 : own);
      from_[i] =
          static_cast<const char*>(operand.data) + (extent.group * operand.group_stride + first) * bytes();
      valid_[i] = there ? clamp(end - own) : 0;
    }
  }

  __device__ bool by_lane() const { return operands_->k_contiguous; }

  // Starts to copy the tile of the segment's steps from `step` on.
  __device__ void copy(int64_t step, Tile& tile) const {
    if (by_lane()) {
      copy_rows<true>(step_ + step, tile);
    } else {
      copy_rows<false>(step_ + step, tile);
    }
  }

 private:
  static constexpr int kEach = (Tile::kChunks + kThreads - 1) / kThreads;
  template <bool kByLane>
  static constexpr int kRowChunks = (kByLane ? kSteps : kLanes) / Tile::kChunk;

  __device__ static int index_of(int i) { return static_cast<int>(threadIdx.x) + i * kThreads; }
  __device__ static int clamp(int64_t count) {
    return count < 0 ? 0 : count < Tile::kChunk ? static_cast<int>(count) : Tile::kChunk;
  }
  __device__ int64_t bytes() const { return operands_->dtype == DType::float32 ? 4 : 2; }

  template <bool kByLane>
  __device__ void copy_rows(int64_t step, Tile& tile) const {
    for (int i = 0; i < kEach; ++i) {
      const int index = index_of(i);
      if (Tile::kChunks % kThreads != 0 && index >= Tile::kChunks) return;
      const int row = index / kRowChunks<kByLane>, column = index % kRowChunks<kByLane> * Tile::kChunk;
      T* to = tile.elements + row * Tile::template kPitch<kByLane> + column;
      if constexpr (kByLane) {
        const int64_t along = step + column;
        const int valid = valid_[i] > 0 ? clamp(end_step_ - along) : 0;
        copy_chunk(to, from_[i] + along * bytes(), valid);
      } else {
        // Both matrices have one layout.
        const int64_t position = step + row < end_step_ ? position_of(*operands_, step + row) : -1;
        copy_chunk(to, from_[i] + position * operands_->row_stride * bytes(), position < 0 ? 0 : valid_[i]);
      }
    }
  }

  // `valid` elements and zeros.
  __device__ void copy_chunk(T* to, const char* from, int valid) const {
    const bool same = sizeof(T) == 2 || operands_->dtype == DType::float32;
    if (valid > 0 && same && reinterpret_cast<uintptr_t>(from) % 16 == 0) {
      ptx::cp_async_16(ptx::shared_address(to), from, static_cast<uint32_t>(valid) * sizeof(T));
    } else {
      *reinterpret_cast<Pack<T>*>(to) = read_chunk(from, valid);
    }
  }

  __device__ Pack<T> read_chunk(const char* from, int valid) const {
    if constexpr (sizeof(T) == 2) {
      return convert_chunk(reinterpret_cast<const T*>(from), valid);
    } else {
      switch (operands_->dtype) {
        case DType::bfloat16:
          return convert_chunk(reinterpret_cast<const bfloat16*>(from), valid);
        case DType::float16:
          return convert_chunk(reinterpret_cast<const float16*>(from), valid);
        default:
          return convert_chunk(reinterpret_cast<const float*>(from), valid);
      }
    }
  }

  // Sixteen-bit products take the bits as they are.
  template <class From>
  __device__ static Pack<T> convert_chunk(const From* from, int valid) {
    Pack<T> chunk{};
    for (int i = 0; i < Tile::kChunk; ++i) {
      if (i >= valid) break;
      if constexpr (sizeof(T) == 2) {
        chunk.of[i] = from[i];
      } else {
        chunk.of[i] = to_float(from[i]);
      }
    }
    return chunk;
  }

  const Operand* operands_ = nullptr;
  int64_t step_ = 0, end_step_ = 0;
  // Where each chunk's row begins, if k is contiguous, or else its column; and its elements along a row of
  // lanes (of a row of steps: whether there is any).
  const char* from_[kEach] = {};
  int valid_[kEach] = {};
};

}  // namespace moe::cuda
