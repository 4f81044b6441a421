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

template <DType kOf, int kConsumerCount, int kColumns>
struct HopperShape {
  static constexpr DType kFormat = kOf;
  static constexpr int kConsumers = kConsumerCount, kTileM = kConsumers * kPanel, kTileN = kColumns;
  static constexpr int kPanelsOfA = kConsumers, kPanelsOfB = kTileN / kPanel;
  static constexpr int kStageBytes = (kPanelsOfA + kPanelsOfB) * kPanelBytes;
  static constexpr int kThreads = (1 + kConsumers) * kWarpgroup;
  // Of 512 a thread of each of four warpgroups: 168 at launch where there are three.
  static constexpr int kProducerRegisters = 104, kConsumerRegisters = 200;
};

// One role's place in the ring of stages. Each has a barrier that says it is full and one that says it is
// empty.
template <class Shape>
class Stages {
 public:
  __device__ explicit Stages(int count)
      : count_(count),
        memory_(ptx::shared_address(dynamic_shared())),
        barriers_(memory_ + count * Shape::kStageBytes + Shape::kConsumers * kSliceBytes) {}

  // By one thread. Every consumer warp arrives when it has read a stage.
  __device__ void set_up(bool gathers) const {
    constexpr int kTensorCopies = 1;
#pragma unroll 1
    for (int stage = 0; stage < count_; ++stage) {
      ptx::mbarrier_init(barriers_ + stage * 16, kTensorCopies + (gathers ? kWarpgroup : 0));
      ptx::mbarrier_init(barriers_ + stage * 16 + 8, Shape::kConsumers * kWarpgroup / 32);
    }
    ptx::fence_mbarrier_init();
  }

  __device__ uint32_t a() const { return memory_ + stage_ * Shape::kStageBytes; }
  __device__ uint32_t b() const { return a() + Shape::kPanelsOfA * kPanelBytes; }
  __device__ uint32_t full() const { return barriers_ + stage_ * 16; }
  __device__ uint32_t empty() const { return full() + 8; }

  __device__ void wait_full() const { ptx::mbarrier_wait(full(), parity_); }
  __device__ void wait_empty() const { ptx::mbarrier_wait(empty(), parity_ ^ 1); }

  __device__ void next() {
    if (++stage_ < count_) return;
    stage_ = 0;
    parity_ ^= 1;
  }

  // Where consumers leave their sums for the epilogue.
  __device__ float* slice(int consumer) const {
    return reinterpret_cast<float*>(dynamic_shared() + count_ * Shape::kStageBytes + consumer * kSliceBytes);
  }
  // Ordinary access to the stage.
  __device__ unsigned char* bytes() const { return dynamic_shared() + stage_ * Shape::kStageBytes; }

 private:
  int count_, stage_ = 0;
  uint32_t memory_, barriers_, parity_ = 0;
};

}  // namespace moe::cuda
