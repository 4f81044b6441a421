// The warpgroups that multiply: each has 64 rows of every tile, whose sums stay in its registers until they
// leave through shared memory, a slice of columns at a time.
#pragma once

#include "cuda/device/epilogues.cuh"
#include "cuda/device/hopper_stages.cuh"
#include "cuda/device/hopper_tiles.cuh"

namespace moe::cuda {

// A panel, or several side by side, as wgmma finds it ("Matrix descriptor" in the PTX manual): 128-byte
// swizzle, 1024 bytes from eight stored rows to the next eight, a panel from 64 lanes to the next where rows
// are steps.
__device__ inline uint64_t describe_panels(uint32_t address) {
  constexpr uint64_t kSwizzle128 = 1;
  return uint64_t{(address & 0x3ffff) >> 4} | uint64_t{kPanelBytes >> 4} << 16 | uint64_t{1024 >> 4} << 32 |
         kSwizzle128 << 62;
}

template <class Shape>
class Consumer {
 public:
  __device__ explicit Consumer(const HopperProduct& product) : product_(product), stages_(product.stages) {}

  __device__ static int index() { return static_cast<int>(threadIdx.x) / kWarpgroup - 1; }

  template <class Epilogue>
  __device__ __forceinline__ void make_tile(const HopperPlace& place, const Epilogue& epilogue) {
    const GroupedGemm& gemm = product_.gemm;
    float sums[Shape::kTileN / 2] = {};
    if (gemm.ragged == Ragged::k) {
      for (int s = 0; s < gemm.segments.size(); ++s)
        add_segment<ptx::Transposed{.a = true, .b = true}>(place.end - place.begin, sums);
    } else {
      for (int s = 0; s < gemm.segments.size(); ++s) {
        const auto steps = static_cast<int32_t>(gemm.segments[s].k);
        if (gemm.segments[s].b[0].k_contiguous) {
          add_segment<ptx::Transposed{.a = false, .b = false}>(steps, sums);
        } else {
          add_segment<ptx::Transposed{.a = false, .b = true}>(steps, sums);
        }
      }
    }
    finish_slices(place, epilogue, sums);
  }

 private:
  template <ptx::Transposed kTransposed>
  __device__ __forceinline__ void add_segment(int32_t steps, float (&sums)[Shape::kTileN / 2]) {
    uint32_t before = 0;
#pragma unroll 1
    for (int32_t step = 0; step < steps; step += kPanel) {
      stages_.wait_full();
      settle(steps - step);
      ptx::wgmma_fence(sums);
      const uint32_t a = stages_.a() + index() * kPanelBytes, b = stages_.b();
#pragma unroll
      for (int k = 0; k < kPanel; k += 16) {
        ptx::wgmma<Shape::kTileN, Shape::kFormat == DType::bfloat16, kTransposed>(
            sums, describe_panels(a + bytes_to_step<kTransposed.a>(k)),
            describe_panels(b + bytes_to_step<kTransposed.b>(k)));
      }
      ptx::wgmma_commit();
      // The tensor cores have the next stage to go on with while this one is given back.
      ptx::wgmma_wait<1>(sums);
      if (step > 0) release(before);
      before = stages_.empty();
      stages_.next();
    }
    ptx::wgmma_wait<0>(sums);
    if (steps > 0) release(before);
  }

  template <bool kRowsAreSteps>
  __device__ static constexpr uint32_t bytes_to_step(int k) {
    return static_cast<uint32_t>(k * (kRowsAreSteps ? 128 : 2));
  }

  __device__ static void release(uint32_t empty) {
    if (lane_id() == 0) ptx::mbarrier_arrive(empty);
  }

  // Makes a full stage fit for wgmma: what threads wrote is made known to it, and steps past the end of a
  // group, which boxes bring of the next one, become zeros.
  __device__ void settle(int32_t steps) const {
    const bool cut = product_.gemm.ragged == Ragged::k && steps < kPanel;
    if (cut) {
      constexpr int kThreads = Shape::kConsumers * kWarpgroup;
      const int first = steps * 128 + (static_cast<int>(threadIdx.x) - kWarpgroup) * 16;
#pragma unroll 1
      for (int p = 0; p < Shape::kPanelsOfA + Shape::kPanelsOfB; ++p)
#pragma unroll 1
        for (int at = first; at < kPanelBytes; at += kThreads * 16)
          *reinterpret_cast<uint4*>(stages_.bytes() + p * kPanelBytes + at) = uint4{};
    }
    if (cut || product_.gathers) ptx::fence_proxy_async();
    if (cut) ptx::named_barrier_sync(kAllConsumers, Shape::kConsumers * kWarpgroup);
  }

  // The columns of the next slice, of gate and up half each where they are side by side.
  template <class Epilogue>
  __device__ __forceinline__ void finish_slices(const HopperPlace& place, const Epilogue& epilogue,
                                                const float (&sums)[Shape::kTileN / 2]) const {
    const GroupedGemm& gemm = product_.gemm;
    const int32_t row = place.row + index() * kPanel;
    const int32_t rows = (gemm.ragged == Ragged::m ? place.end : static_cast<int32_t>(gemm.m)) - row;
    if (rows <= 0) return;
    const int width = gemm.side_by_side ? kPanel / 2 : kPanel;
    float* c = stages_.slice(index());
#pragma unroll 1
    for (int slice = 0; slice < Shape::kPanelsOfB; ++slice) {
      const int32_t column = place.column + slice * width, columns = static_cast<int32_t>(gemm.n) - column;
      if (columns <= 0) return;
      if (gemm.side_by_side) {
        put_slice<true>(slice, sums, c);
      } else {
        put_slice<false>(slice, sums, c);
      }
      ptx::named_barrier_sync(index(), kWarpgroup);
      finish(epilogue, Tile{.team = {static_cast<int>(threadIdx.x) % kWarpgroup / kWarp, kWarpgroup / kWarp},
                            .c = c,
                            .pitch = kSlicePitch,
                            .half = kPanel / 2,
                            .group = place.group,
                            .row = row,
                            .column = column,
                            .rows = rows < kPanel ? rows : kPanel,
                            .columns = columns < width ? columns : width});
      ptx::named_barrier_sync(index(), kWarpgroup);
    }
  }

  // Registers are named as the code is compiled, so every slice is there, and one of them is taken.
  template <bool kSideBySide>
  __device__ __forceinline__ static void put_slice(int slice, const float (&sums)[Shape::kTileN / 2],
                                                   float* c) {
    constexpr int kEighths = 8;
    const int thread = static_cast<int>(threadIdx.x) % kWarpgroup, lane = lane_id();
    float* own = c + (thread / kWarp * 16 + lane / 4) * kSlicePitch + lane % 4 * 2;
#pragma unroll
    for (int s = 0; s < Shape::kPanelsOfB; ++s) {
      if (s != slice) continue;
#pragma unroll
      for (int j = 0; j < kEighths; ++j) {
        const int of_half = s * kEighths / 2 + j % (kEighths / 2);
        const int eighth =
            kSideBySide ? j / (kEighths / 2) * (Shape::kTileN / 16) + of_half : s * kEighths + j;
        float* to = own + j * 8;
        *reinterpret_cast<float2*>(to) = {sums[eighth * 4], sums[eighth * 4 + 1]};
        *reinterpret_cast<float2*>(to + 8 * kSlicePitch) = {sums[eighth * 4 + 2], sums[eighth * 4 + 3]};
      }
    }
  }

  static constexpr unsigned kAllConsumers = 7;  // beside each one's own

  const HopperProduct& product_;
  Stages<Shape> stages_;
};

}  // namespace moe::cuda
