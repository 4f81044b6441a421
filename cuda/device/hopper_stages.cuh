// What a block's warpgroups share: the product they make, the shape of its tiles, and the stages of shared
// memory through which operands go from the producer to the consumers.
//
// A stage holds 64 steps of k: the panels of A, then those of B. A panel is 64 stored rows of 128 bytes in
// the 128-byte swizzle, 16-byte chunk c of row r at c ^ (r % 8): where k is contiguous its rows are lanes
// (rows of A, columns of B) and it has 64 steps of them, else its rows are steps and it has 64 lanes of them.
#pragma once

#include <cuda.h>

#include "cuda/device/ptx.cuh"
#include "cuda/hopper_config.h"
#include "ops/grouped_gemm.h"

namespace moe::cuda {

struct HopperProduct {
  struct Maps {
    CUtensorMap a, b[2];
  };
  Maps maps[Segments::kMost];  // of the operands that are not gathered
  GroupedGemm gemm;
  int stages;
  bool gathers;  // the producer's threads copy rows of some operand
};

template <DType kOf, int kRows, int kColumns>
struct HopperShape {
  static constexpr DType kFormat = kOf;
  static constexpr int kTileM = kRows, kTileN = kColumns;
  static constexpr int kPanelsOfA = kTileM / kPanel, kPanelsOfB = kTileN / kPanel;
  static constexpr int kStageBytes = (kPanelsOfA + kPanelsOfB) * kPanelBytes;
  static constexpr bool kCooperative = takes_both_consumers(kTileM, kTileN);
  // Panels of A, and warpgroups, that a consumer multiplies and a stage is read by.
  static constexpr int kPanelsEach = kCooperative ? kPanelsOfA / kConsumers : kPanelsOfA;
  static constexpr int kReaders = kCooperative ? kConsumers : 1;
  static constexpr int kThreads = (1 + kConsumers) * kWarpgroup;
  // Of a thread, together those of 168 which a block of 384 has at launch.
  static constexpr bool kFewSums = kPanelsEach * kTileN <= 2 * kPanel;
  static constexpr int kProducerRegisters = kFewSums ? 120 : 88, kConsumerRegisters = kFewSums ? 192 : 208;
};

// One role's place in the ring of stages. Each has a barrier that says it is full and one that says it is
// empty.
template <class Shape>
class Stages {
 public:
  __device__ explicit Stages(int count) : count_(count) {}

  // By one thread. Every consumer warp arrives when it has read a stage, or all stages of its tile.
  __device__ void set_up(bool gathers) const {
    constexpr int kTensorCopies = 1, kWarps = kWarpgroup / 32;
#pragma unroll 1
    for (int stage = 0; stage < count_; ++stage) {
      ptx::mbarrier_init(barriers() + stage * 16, kTensorCopies + (gathers ? kWarpgroup : 0));
      ptx::mbarrier_init(barriers() + stage * 16 + 8, Shape::kReaders * kWarps);
    }
    for (int consumer = 0; consumer < kConsumers; ++consumer) ptx::mbarrier_init(turn_of(consumer), kWarps);
    ptx::fence_mbarrier_init();
  }

  __device__ uint32_t a() const { return memory() + stage_ * Shape::kStageBytes; }
  __device__ uint32_t b() const { return a() + Shape::kPanelsOfA * kPanelBytes; }
  __device__ uint32_t full() const { return barriers() + stage_ * 16; }
  __device__ uint32_t empty() const { return full() + 8; }
  // A consumer's turn has come when the other one has waited for all stages of its own tile: a barrier tells
  // one phase from the next, but not from the one after.
  __device__ uint32_t turn_of(int consumer) const { return barriers() + count_ * 16 + consumer * 8; }

  __device__ void wait_full() const { ptx::mbarrier_wait(full(), parity_); }
  __device__ void wait_empty() const { ptx::mbarrier_wait(empty(), parity_ ^ 1); }

  __device__ void next() {
    if (++stage_ < count_) return;
    stage_ = 0;
    parity_ ^= 1;
  }
  // Stages that are another's.
  __device__ void skip(int32_t stages) {
    const int32_t reached = stage_ + stages;
    stage_ = reached % count_;
    parity_ ^= reached / count_ % 2;
  }

  // Where consumers leave their sums for the epilogue.
  __device__ float* slice(int consumer) const {
    return reinterpret_cast<float*>(dynamic_shared() + count_ * Shape::kStageBytes + consumer * kSliceBytes);
  }
  // Ordinary access to the stage.
  __device__ unsigned char* bytes() const { return dynamic_shared() + stage_ * Shape::kStageBytes; }

 private:
  // Not kept: registers are dear.
  __device__ static uint32_t memory() { return ptx::shared_address(dynamic_shared()); }
  __device__ uint32_t barriers() const {
    return memory() + count_ * Shape::kStageBytes + kConsumers * kSliceBytes;
  }

  int count_, stage_ = 0;
  uint32_t parity_ = 0;
};

}  // namespace moe::cuda
