// The warpgroups that multiply. Both have 64 rows of every tile, or they have whole tiles by turns; the sums
// stay in registers until they leave through shared memory, a slice of columns at a time.
#pragma once

#include "cuda/device/epilogues.cuh"
#include "cuda/device/hopper_stages.cuh"
#include "cuda/device/ragged_tiles.cuh"

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

  template <class Epilogue>
  __device__ __forceinline__ void take_tile(const Place& place, const Epilogue& epilogue) {
    if (Shape::kCooperative || static_cast<int>(tiles_ % kConsumers) == index()) {
      make_tile(place, epilogue);
    } else {
      for (int s = 0; s < product_.gemm.segments.size(); ++s)
        stages_.skip((steps_of(s, place) + kPanel - 1) / kPanel);
    }
    ++tiles_;
  }

 private:
  // Of the products of 64 rows each.
  using Sums = float[Shape::kPanelsEach][Shape::kTileN / 2];
  static constexpr unsigned kBothConsumers = 7;  // the named barrier beside each one's own

  __device__ static int index() { return static_cast<int>(threadIdx.x) / kWarpgroup - 1; }
  __device__ static void meet() { ptx::named_barrier_sync(1 + index(), kWarpgroup); }

  __device__ int32_t steps_of(int segment, const Place& place) const {
    const GroupedGemm& gemm = product_.gemm;
    return gemm.ragged == Ragged::m ? static_cast<int32_t>(gemm.segments[segment].k)
                                    : place.end - place.begin;
  }

  template <class Epilogue>
  __device__ __forceinline__ void make_tile(const Place& place, const Epilogue& epilogue) {
    const GroupedGemm& gemm = product_.gemm;
    Sums sums = {};
    if (!Shape::kCooperative) wait_for_turn();
    for (int s = 0; s < gemm.segments.size(); ++s) {
      const int32_t steps = steps_of(s, place);
      const bool last = s + 1 == gemm.segments.size();
      if (gemm.ragged == Ragged::k) {
        add_segment<ptx::Transposed{.a = true, .b = true}>(steps, last, sums);
      } else if (gemm.segments[s].b[0].k_contiguous) {
        add_segment<ptx::Transposed{.a = false, .b = false}>(steps, last, sums);
      } else {
        add_segment<ptx::Transposed{.a = false, .b = true}>(steps, last, sums);
      }
    }
    finish_slices(place, epilogue, sums);
  }

  // The first turn is the first consumer's: the phase before a barrier's first counts as complete.
  __device__ void wait_for_turn() const {
    const uint32_t own_tiles = tiles_ / kConsumers;
    ptx::mbarrier_wait(stages_.turn_of(index()), (own_tiles + (index() == 0 ? 1 : 0)) % 2);
  }

  template <ptx::Transposed kTransposed>
  __device__ __forceinline__ void add_segment(int32_t steps, bool last, Sums& sums) {
    uint32_t before = 0;
#pragma unroll 1
    for (int32_t step = 0; step < steps; step += kPanel) {
      stages_.wait_full();
      settle(steps - step);
      ptx::wgmma_fence(sums);
      multiply_stage<kTransposed>(sums);
      ptx::wgmma_commit();
      // The tensor cores have the next stage to go on with while this one is given back.
      ptx::wgmma_wait<1>(sums);
      if (step > 0) arrive(before);
      before = stages_.empty();
      stages_.next();
    }
    if (last && !Shape::kCooperative) arrive(stages_.turn_of(1 - index()));
    ptx::wgmma_wait<0>(sums);
    if (steps > 0) arrive(before);
  }

  template <ptx::Transposed kTransposed>
  __device__ __forceinline__ void multiply_stage(Sums& sums) const {
    const uint32_t a = stages_.a() + (Shape::kCooperative ? index() * Shape::kPanelsEach * kPanelBytes : 0);
#pragma unroll
    for (int k = 0; k < kPanel; k += 16) {
#pragma unroll
      for (int p = 0; p < Shape::kPanelsEach; ++p) {
        ptx::wgmma<Shape::kTileN, Shape::kFormat == DType::bfloat16, kTransposed>(
            sums[p], describe_panels(a + p * kPanelBytes + bytes_to_step<kTransposed.a>(k)),
            describe_panels(stages_.b() + bytes_to_step<kTransposed.b>(k)));
      }
    }
  }

  template <bool kRowsAreSteps>
  __device__ static constexpr uint32_t bytes_to_step(int k) {
    return static_cast<uint32_t>(k * (kRowsAreSteps ? 128 : 2));
  }

  // For the warp, each lane of which has waited for all that it had to.
  __device__ static void arrive(uint32_t barrier) {
    __syncwarp();
    if (lane_id() == 0) ptx::mbarrier_arrive(barrier);
  }

  // Makes a full stage fit for wgmma: what threads wrote is made known to it, and steps past the end of a
  // group, which boxes bring of the next one, become zeros.
  __device__ void settle(int32_t steps) const {
    const bool cut = product_.gemm.ragged == Ragged::k && steps < kPanel;
    if (cut) {
      constexpr int kThreads = Shape::kReaders * kWarpgroup;
      const int thread = (static_cast<int>(threadIdx.x) - kWarpgroup) % kThreads;
#pragma unroll 1
      for (int p = 0; p < Shape::kPanelsOfA + Shape::kPanelsOfB; ++p)
#pragma unroll 1
        for (int at = steps * 128 + thread * 16; at < kPanelBytes; at += kThreads * 16)
          *reinterpret_cast<uint4*>(stages_.bytes() + p * kPanelBytes + at) = uint4{};
    }
    if (cut || product_.gathers) ptx::fence_proxy_async();
    if (cut && Shape::kCooperative) ptx::named_barrier_sync(kBothConsumers, kConsumers * kWarpgroup);
    if (cut && !Shape::kCooperative) meet();
  }

  // Slices of 64 columns of 64 rows, of gate and up half each where they are side by side.
  template <class Epilogue>
  __device__ __forceinline__ void finish_slices(const Place& place, const Epilogue& epilogue,
                                                const Sums& sums) const {
    const GroupedGemm& gemm = product_.gemm;
    const int32_t end = gemm.ragged == Ragged::m ? place.end : static_cast<int32_t>(gemm.m);
    const int32_t first = place.row + (Shape::kCooperative ? index() * Shape::kPanelsEach * kPanel : 0);
    const int width = gemm.side_by_side ? kPanel / 2 : kPanel;
    float* c = stages_.slice(index());
#pragma unroll 1
    for (int slice = 0; slice < Shape::kPanelsEach * Shape::kPanelsOfB; ++slice) {
      const int32_t row = first + slice / Shape::kPanelsOfB * kPanel, rows = end - row;
      const int32_t column = place.column + slice % Shape::kPanelsOfB * width,
                    columns = static_cast<int32_t>(gemm.n) - column;
      if (rows <= 0 || columns <= 0) continue;
      if (gemm.side_by_side) {
        put_slice<true>(slice, sums, c);
      } else {
        put_slice<false>(slice, sums, c);
      }
      meet();
      finish(epilogue, Tile{.team = {static_cast<int>(threadIdx.x) % kWarpgroup / kWarp, kWarpgroup / kWarp},
                            .c = c,
                            .pitch = kSlicePitch,
                            .half = kPanel / 2,
                            .group = place.group,
                            .row = row,
                            .column = column,
                            .rows = rows < kPanel ? rows : kPanel,
                            .columns = columns < width ? columns : width});
      meet();
    }
  }

  // Registers are named as the code is compiled, so every slice is there, and one of them is taken.
  template <bool kSideBySide>
  __device__ __forceinline__ static void put_slice(int slice, const Sums& sums, float* c) {
    constexpr int kEighths = 8;
    const int thread = static_cast<int>(threadIdx.x) % kWarpgroup, lane = lane_id();
    float* own = c + (thread / kWarp * 16 + lane / 4) * kSlicePitch + lane % 4 * 2;
#pragma unroll
    for (int each = 0; each < Shape::kPanelsEach * Shape::kPanelsOfB; ++each) {
      if (each != slice) continue;
      const int panel = each / Shape::kPanelsOfB, s = each % Shape::kPanelsOfB;
#pragma unroll
      for (int j = 0; j < kEighths; ++j) {
        const int of_half = s * kEighths / 2 + j % (kEighths / 2);
        const int eighth =
            kSideBySide ? j / (kEighths / 2) * (Shape::kTileN / 16) + of_half : s * kEighths + j;
        float* to = own + j * 8;
        *reinterpret_cast<float2*>(to) = {sums[panel][eighth * 4], sums[panel][eighth * 4 + 1]};
        *reinterpret_cast<float2*>(to + 8 * kSlicePitch) = {sums[panel][eighth * 4 + 2],
                                                            sums[panel][eighth * 4 + 3]};
      }
    }
  }

  const HopperProduct& product_;
  Stages<Shape> stages_;
  uint32_t tiles_ = 0;  // so far
};

}  // namespace moe::cuda
